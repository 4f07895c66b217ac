package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;

/**
 * A shape and a direct buffer, which is not copied: native code reads it where it lies. Twin of the AAR's class of this
 * name.
 *
 * <p>A tensor that a method gave wraps the method's own memory: it is valid until that method runs again.
 */
public abstract class Tensor {
    final long[] shape; // read by twin.cpp

    private Tensor(long[] shape) {
        this.shape = shape.clone();
    }

    /** Throws IllegalArgumentException unless the buffer is direct, native-order and as long as the shape says. */
    public static Tensor fromBlob(FloatBuffer data, long[] shape) {
        check(data, data.order(), shape);
        return new Floats(data, shape);
    }

    /** Throws IllegalArgumentException unless the buffer is direct, native-order and as long as the shape says. */
    public static Tensor fromBlob(LongBuffer data, long[] shape) {
        check(data, data.order(), shape);
        return new Longs(data, shape);
    }

    public static long numel(long[] shape) {
        long count = 1;
        for (long size : shape) {
            if (size < 0) {
                throw new IllegalArgumentException("Shape elements must be non negative");
            }
            count *= size;
        }
        return count;
    }

    public long numel() {
        return numel(shape);
    }

    public long[] shape() {
        return shape.clone();
    }

    public abstract DType dtype();

    /** A copy. Throws IllegalStateException where the elements are no floats. */
    public float[] getDataAsFloatArray() {
        throw new IllegalStateException("this tensor is no float tensor");
    }

    /** A copy. Throws IllegalStateException where the elements are no 64-bit integers. */
    public long[] getDataAsLongArray() {
        throw new IllegalStateException("this tensor is no int64 tensor");
    }

    abstract Buffer getRawDataBuffer(); // called by twin.cpp

    int dtypeJniCode() { // called by twin.cpp
        return dtype().jniCode;
    }

    private static Tensor nativeNewTensor(ByteBuffer data, long[] shape, int dtype) { // called by twin.cpp
        data.order(ByteOrder.nativeOrder());
        if (dtype == DType.FLOAT.jniCode) {
            return new Floats(data.asFloatBuffer(), shape);
        }
        if (dtype == DType.INT64.jniCode) {
            return new Longs(data.asLongBuffer(), shape);
        }
        throw new IllegalStateException("a method gave a tensor of type " + dtype + ", which the twin has not");
    }

    private static void check(Buffer data, ByteOrder order, long[] shape) {
        if (numel(shape) != data.capacity()) {
            throw new IllegalArgumentException(
                    "Inconsistent data capacity:" + data.capacity() + " and shape:" + Arrays.toString(shape));
        }
        if (!data.isDirect()) {
            throw new IllegalArgumentException("Data buffer must be direct");
        }
        if (order != ByteOrder.nativeOrder()) {
            throw new IllegalArgumentException("Data buffer must have native byte order");
        }
    }

    private static final class Floats extends Tensor {
        private final FloatBuffer data;

        Floats(FloatBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public DType dtype() {
            return DType.FLOAT;
        }

        @Override
        public float[] getDataAsFloatArray() {
            float[] copy = new float[data.capacity()];
            data.rewind();
            data.get(copy);
            return copy;
        }

        @Override
        Buffer getRawDataBuffer() {
            return data;
        }
    }

    private static final class Longs extends Tensor {
        private final LongBuffer data;

        Longs(LongBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public DType dtype() {
            return DType.INT64;
        }

        @Override
        public long[] getDataAsLongArray() {
            long[] copy = new long[data.capacity()];
            data.rewind();
            data.get(copy);
            return copy;
        }

        @Override
        Buffer getRawDataBuffer() {
            return data;
        }
    }
}

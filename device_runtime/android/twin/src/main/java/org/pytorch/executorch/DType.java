package org.pytorch.executorch;

/** What a tensor's elements are. Twin of the AAR's class of this name, with the types that programs here use. */
public enum DType {
    /** 64-bit integers. */
    INT64(4),
    /** 32-bit floats. */
    FLOAT(6);

    final int jniCode;

    DType(int jniCode) {
        this.jniCode = jniCode;
    }
}

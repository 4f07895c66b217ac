package org.pytorch.executorch;

import java.io.File;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A program that is loaded from a file. Twin of the AAR's class of this name, for tests on a desktop JVM.
 *
 * <p>It is written in Java and has only what the AAR's versions in Java and in Kotlin both have, so that whatever is
 * compiled against it links to either: the static methods stay static, and loadMethod, whose result differs, is left
 * out.
 *
 * <p>The system property executorch.twin.library names libexecutorch_twin.so, which scripts/android builds.
 */
public class Module {
    /** Reads the whole file. */
    public static final int LOAD_MODE_FILE = 0;

    /** Maps the file. */
    public static final int LOAD_MODE_MMAP = 1;

    /** Maps and locks the file. */
    public static final int LOAD_MODE_MMAP_USE_MLOCK = 2;

    /** Maps the file, and locks it where that is allowed. */
    public static final int LOAD_MODE_MMAP_USE_MLOCK_IGNORE_ERRORS = 3;

    static {
        System.load(System.getProperty("executorch.twin.library"));
    }

    private final ReentrantLock lock = new ReentrantLock();
    private long handle; // 0: destroyed

    private Module(long handle) {
        this.handle = handle;
    }

    public static Module load(String modelPath) {
        return load(modelPath, LOAD_MODE_FILE);
    }

    public static Module load(String modelPath, int loadMode) {
        return load(modelPath, loadMode, 0);
    }

    /** 0 threads: half of the cores. The thread pool is the process's. */
    public static Module load(String modelPath, int loadMode, int numThreads) {
        File file = new File(modelPath);
        if (!file.canRead() || !file.isFile()) {
            throw new IllegalArgumentException("Cannot load model path " + modelPath);
        }
        Module module = new Module(open(modelPath, loadMode, numThreads));
        try {
            module.getMethods(); // reads the program, as the AAR does here
        } catch (RuntimeException unreadable) {
            module.destroy();
            throw unreadable;
        }
        return module;
    }

    /** Runs a method; its first run loads it. Throws ExecutorchRuntimeException. */
    public EValue[] execute(String methodName, EValue... inputs) {
        Tensor[] tensors = new Tensor[inputs.length];
        for (int i = 0; i < inputs.length; i++) {
            tensors[i] = inputs[i].toTensor();
        }
        lock.lock();
        try {
            Tensor[] given = execute(alive(), methodName, tensors);
            EValue[] outputs = new EValue[given.length];
            for (int i = 0; i < given.length; i++) {
                outputs[i] = EValue.from(given[i]);
            }
            return outputs;
        } finally {
            lock.unlock();
        }
    }

    public String[] getMethods() {
        lock.lock();
        try {
            return methods(alive());
        } finally {
            lock.unlock();
        }
    }

    /** Frees the program; tensors that it gave must not be touched afterwards. */
    public void destroy() {
        lock.lock();
        try {
            if (handle != 0) {
                close(handle);
            }
            handle = 0;
        } finally {
            lock.unlock();
        }
    }

    private long alive() {
        if (handle == 0) {
            throw new IllegalStateException("Module has been destroyed");
        }
        return handle;
    }

    private static native long open(String path, int loadMode, int threads);

    private static native void close(long handle);

    private static native String[] methods(long handle);

    private static native Tensor[] execute(long handle, String method, Tensor[] inputs);
}

package org.pytorch.executorch;

/** What ExecuTorch throws; the code is that of its runtime/core/error.h. Twin of the AAR's class of this name. */
public class ExecutorchRuntimeException extends RuntimeException {
    private final int errorCode;

    public ExecutorchRuntimeException(int errorCode, String details) {
        super("[ExecuTorch Error 0x" + Integer.toHexString(errorCode) + "] " + details);
        this.errorCode = errorCode;
    }

    public int getErrorCode() {
        return errorCode;
    }
}

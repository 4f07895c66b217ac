package org.pytorch.executorch;

/** A value that a method takes or gives; here always a tensor. Twin of the AAR's class of this name. */
public class EValue {
    private final Tensor tensor;

    private EValue(Tensor tensor) {
        this.tensor = tensor;
    }

    public static EValue from(Tensor tensor) {
        return new EValue(tensor);
    }

    public boolean isTensor() {
        return true;
    }

    public Tensor toTensor() {
        return tensor;
    }
}

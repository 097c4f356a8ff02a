"""MMIO by hypercall: one module for the operations, one per convention."""

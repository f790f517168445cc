"""Testing GPU code without a GPU: CUDA emulation on the CPU, a strict fake `cupy`, NVRTC compilation."""

"""Stands for torchvision in tests where there is no build of it for the machine's PyTorch."""

"""Networks: assembled from blocks, any mixer inside."""

from monai_ext.networks.residual import ResidualNetwork
from monai_ext.networks.shape_swin import ShapeSwin
from monai_ext.networks.swin import MixerSwin
from monai_ext.networks.swin_unetr import MixerSwinUNETR
from monai_ext.networks.unetr import MixerUNETR
from monai_ext.networks.upernet import MixerSwinUPerNet, MixerViTUPerNet
from monai_ext.networks.vit import MixerViT

__all__ = [
    "MixerSwin",
    "MixerSwinUNETR",
    "MixerSwinUPerNet",
    "MixerUNETR",
    "MixerViT",
    "MixerViTUPerNet",
    "ResidualNetwork",
    "ShapeSwin",
]

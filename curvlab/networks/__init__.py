"""Flax networks, registered by name, one file each.

The engine never imports this package: any ``predict(params, inputs)`` will do. It is here so that a
checkpoint can name its network in plain data and be analysed without the code that trained it.
"""

from curvlab.networks.atari_network import AtariNetwork as AtariNetwork
from curvlab.networks.atari_torso import AtariTorso as AtariTorso
from curvlab.networks.cnn import CNN as CNN
from curvlab.networks.convolution import matmul_convolution as matmul_convolution
from curvlab.networks.mlp import MLP as MLP
from curvlab.networks.registry import NETWORKS as NETWORKS
from curvlab.networks.registry import Predict as Predict
from curvlab.networks.registry import build_network as build_network
from curvlab.networks.registry import initialise as initialise
from curvlab.networks.resnet import ResNet as ResNet

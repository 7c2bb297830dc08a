"""Networks in sizes of one's own; `networks.models` has those of the papers by name.

Each function returns ``body(shape, num_outputs, lowering, rngs)``, the layers of a network for
inputs of a shape (without the examples), to be put into a `ModelSpec`.

studies       the MLPs and CNNs of the two studies
residual      ResNet and WideResNet for small images
vgg           VGG with BatchNorm
transformers  vision transformer and GPT
"""

from jaxsharp.networks.zoo.residual import resnet as resnet
from jaxsharp.networks.zoo.residual import wide_resnet as wide_resnet
from jaxsharp.networks.zoo.studies import batch_cnn as batch_cnn
from jaxsharp.networks.zoo.studies import lenet as lenet
from jaxsharp.networks.zoo.studies import mlp as mlp
from jaxsharp.networks.zoo.transformers import gpt as gpt
from jaxsharp.networks.zoo.transformers import vit as vit
from jaxsharp.networks.zoo.vgg import vgg as vgg

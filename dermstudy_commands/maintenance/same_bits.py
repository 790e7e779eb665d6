"""Whether two processors give the same bits: `python -m dermstudy_commands.maintenance.same_bits`.

Prints one hash for each kind of arithmetic that the demo uses, under the variables of its profile. Where two processors
print the same line, that arithmetic can be promised equal to the byte. `results/demo/bits.csv` keeps the lines of the
processors met so far.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence

from dermstudy import processor
from dermstudy_commands.runner.profiles import load_profile


def digest(*arrays) -> str:
    """Sixteen digits over the bytes of arrays or tensors."""
    import numpy as np

    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array.detach().numpy() if hasattr(array, "detach") else array).tobytes())
    return total.hexdigest()[:16]


def layers() -> dict[str, Callable[[], str]]:
    """Each layer of the networks of torch: what it gives, and its gradients."""
    import torch
    from torch import nn

    def passed(make: Callable[[], nn.Module], *shape: int) -> Callable[[], str]:
        def run() -> str:
            torch.manual_seed(0)
            layer, inputs = make(), torch.randn(shape, requires_grad=True)
            output = layer(inputs)
            output.square().mean().backward()
            return digest(output, inputs.grad, *(parameter.grad for parameter in layer.parameters()))

        return run

    class Attention(nn.Module):
        def forward(self, inputs):
            return nn.functional.scaled_dot_product_attention(inputs, inputs, inputs)

    return {
        "convolution 3 x 3": passed(lambda: nn.Conv2d(12, 64, 3, padding=1), 4, 12, 32, 32),
        "convolution, 64 channels": passed(lambda: nn.Conv2d(64, 64, 3, padding=1), 4, 64, 32, 32),
        "convolution 1 x 1": passed(lambda: nn.Conv2d(64, 128, 1), 4, 64, 16, 16),
        "convolution, stride 2": passed(lambda: nn.Conv2d(64, 64, 3, stride=2, padding=1), 4, 64, 32, 32),
        "depthwise convolution": passed(lambda: nn.Conv2d(64, 64, 5, padding=2, groups=64), 4, 64, 32, 32),
        "linear": passed(lambda: nn.Linear(128, 512), 512, 128),
        "attention": passed(Attention, 2, 4, 64, 32),
        "group norm": passed(lambda: nn.GroupNorm(4, 64), 4, 64, 32, 32),
        "layer norm": passed(lambda: nn.LayerNorm(128), 512, 128),
        "GELU": passed(nn.GELU, 512, 512),
        "SiLU": passed(nn.SiLU, 512, 512),
        "softmax": passed(lambda: nn.Softmax(-1), 512, 512),
    }


def trainings() -> dict[str, Callable[[], str]]:
    """Eight steps of AdamW by torch, and two epochs of a convolutional network by Keras."""
    import numpy as np
    import torch

    def adamw() -> str:
        torch.manual_seed(0)
        layers = (
            torch.nn.Conv2d(12, 64, 3, padding=1),
            torch.nn.GroupNorm(4, 64),
            torch.nn.SiLU(),
            torch.nn.Conv2d(64, 12, 1),
        )
        network, inputs = torch.nn.Sequential(*layers), torch.randn(8, 12, 32, 32)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        for _ in range(8):
            optimizer.zero_grad()
            (network(inputs) - inputs).square().mean().backward()
            optimizer.step()
        return digest(*network.parameters())

    def keras_network() -> str:
        from dermstudy.tensorflow_setup import import_keras

        keras = import_keras()
        keras.utils.set_random_seed(0)
        random, layers = np.random.default_rng(0), keras.layers
        images, labels = random.random((64, 32, 32, 3)).astype("float32"), random.integers(0, 7, 64)
        network = keras.Sequential(
            [layers.Input((32, 32, 3)), layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()]
        )
        network.add(layers.Flatten())
        network.add(layers.Dense(7, activation="softmax"))
        network.compile("adam", "sparse_categorical_crossentropy")
        network.fit(images, labels, epochs=2, batch_size=16, verbose=0)
        return digest(*network.get_weights())

    return {"training, torch": adamw, "training, Keras": keras_network}


def networks() -> dict[str, Callable[[], str]]:
    """The pretrained networks, on drawn images: FID-Inception and EfficientNet-Lite0; and glide-mini's base, one step."""
    import numpy as np
    import torch

    from dermstudy import pretrained
    from dermstudy.diffusion import glide
    from dermstudy.evaluation import encoders
    from dermstudy.workspace import from_root

    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)

    def base() -> str:
        pipeline = glide.load(from_root("weights/glide-mini/base"))
        hidden, pooled = pipeline.encode(["melanoma", "melanocytic nevus"])
        data = torch.randn((2, 12, 32, 32), generator=torch.Generator().manual_seed(0))
        output = pipeline.unet(data, torch.tensor([1.0, 1.0]), encoder_hidden_states=hidden, class_labels=pooled).sample
        output.square().mean().backward()
        return digest(
            output, *(parameter.grad for parameter in pipeline.unet.parameters() if parameter.grad is not None)
        )

    return {
        "FID-Inception": lambda: digest(encoders.fid_inception_features(images)),
        "EfficientNet-Lite0": lambda: digest(pretrained.pooled_features(images)),
        "base of glide-mini": base,
    }


def numbers() -> dict[str, Callable[[], str]]:
    """numpy, scikit-learn and torch's products."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    table, labels = random.normal(size=(400, 60)), random.integers(0, 7, 400)
    matrix = torch.from_numpy(table).float()
    return {
        "matrix product, torch": lambda: digest(matrix @ matrix.T),
        "eigenvalues, torch": lambda: digest(torch.linalg.eigvalsh(matrix.T @ matrix)),
        "numpy": lambda: digest(table @ table.T, np.linalg.svd(table)[1], np.exp(table), table.mean(0)),
        "square roots and logarithms, torch": lambda: digest(*(f(matrix.abs()) for f in (torch.sqrt, torch.log))),
        "logistic regression": lambda: digest(LogisticRegression(max_iter=200).fit(table, labels).coef_),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; it starts itself again, for libraries read the caps when they are loaded."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy_commands.maintenance.same_bits", description=__doc__)
    parser.parse_args(arguments)
    caps = load_profile("demo").environment
    if any(os.environ.get(name) != value for name, value in caps.items()):
        command = [sys.executable, "-m", "dermstudy_commands.maintenance.same_bits"]
        os.execve(sys.executable, command, os.environ | caps)
    import torch

    processor.exact_roots()
    print("processor,torch,arithmetic,hash,seconds", flush=True)
    for name, make in (numbers() | layers() | trainings() | networks()).items():
        began, found = time.process_time(), make()
        print(
            f'"{processor.described()}",{torch.__version__},"{name}",{found},{time.process_time() - began:.2f}',
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

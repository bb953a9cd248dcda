import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from amma_core.config import NetworkConfig
from amma_core.network import Amma
from amma_core.training.cpu import FullPrecisionConv2d, absorb_norms, spare_slow_kernels


@pytest.mark.parametrize("frozen_norms", [False, True])
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "mobilenet_v2", "resnet18", "shufflenet_v2"])
def test_the_same_is_computed_in_another_way(backbone, frozen_norms):
    torch.manual_seed(0)
    network = Amma(NetworkConfig(num_classes=2, backbone=backbone, input_size=64)).train()
    for norm in [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]:
        norm.train(not frozen_norms)
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(values, 0.5, 1.5)
    clips = torch.randint(0, 256, (3, 4, 3, 64, 64), dtype=torch.uint8)
    state = network.state_dict()

    def answer_and_gradient():
        network.zero_grad()
        answer = network.encode(clips)
        answer.square().sum().backward()
        return answer.detach(), [value.grad for value in network.parameters() if value.grad is not None]

    before = answer_and_gradient()
    spare_slow_kernels(network)
    if frozen_norms:
        absorb_norms(network)
    after = answer_and_gradient()
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert network.state_dict().keys() == state.keys()


def test_slow_gradients_are_computed_in_full_precision():
    conv = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
    network = nn.Sequential(conv)
    spare_slow_kernels(network)
    assert type(conv) is FullPrecisionConv2d
    x = torch.rand(1, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x).dtype == torch.float32
        network.requires_grad_(False)
        assert network(x).dtype == torch.bfloat16  # no gradient, nothing to spare


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
@pytest.mark.parametrize("keeps", [False, True])
def test_freed_memory_stays_for_the_next_step(keeps):
    measure = f"""
import ctypes, resource
from amma_core.training.cpu import keep_freed_memory
if {keeps}:
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
block = libc.malloc(ctypes.c_size_t(20_000_000))
ctypes.memset(block, 1, 20_000_000)
full = megabytes()
libc.free(ctypes.c_void_p(block))
print(full - megabytes())
"""
    freed = float(subprocess.check_output([sys.executable, "-c", measure]))
    assert (freed < 1) == keeps

"""Parameters and multiply-adds of a network, by module.

Counts are strict: convolutions, transposed and deformable convolutions alone, a whole inference over K clips
divided by K.

    amma info --backbone mobilenet_v2
    amma info --model amma_m_jhmdb21 --json
"""

import argparse
import json

from amma_core.config import FUSIBLE_STAGES, MOTIONS, NetworkConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="take the network of this model (a folder or a shipped name), or those of a committee"
    )
    parser.add_argument("--backbone", default="resnet18", choices=list(FUSIBLE_STAGES))
    parser.add_argument("--motion", default="conv_diff", choices=MOTIONS)
    parser.add_argument("--fusion-stages", type=int, metavar="N", help="default: 3, and 0 without motion")
    parser.add_argument(
        "--late-fusion", type=float, default=0.0, metavar="SHARE", help="of motion alone (default: 0, none)"
    )
    parser.add_argument(
        "--clips", type=int, default=5, metavar="K", help="clips that the head sees (default: 5)"
    )
    parser.add_argument(
        "--clip-length", type=int, default=4, metavar="T", help="frames of a clip (default: 4)"
    )
    parser.add_argument("--num-classes", type=int, default=21, metavar="C", help="default: 21")
    parser.add_argument("--input-size", type=int, default=288, metavar="S", help="pixels (default: 288)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")


def run(arguments: argparse.Namespace) -> None:
    for number, config in enumerate(_configs(arguments)):
        if number and not arguments.json:
            print()
        _print(config, arguments.json)


def _print(config: NetworkConfig, as_json: bool) -> None:
    from amma_core.network import Amma, multiply_adds, parameter_count

    parts = dict(Amma(config).named_children())
    macs = multiply_adds(config)
    parameters = {name: parameter_count(module) for name, module in parts.items()}
    total_gmacs = sum(macs.values()) / 1e9
    if as_json:
        print(
            json.dumps(
                {"parameters": sum(parameters.values()), "gmacs_per_clip": total_gmacs, **config.to_dict()}
            )
        )
        return
    late = f" and late fusion of {config.late_fusion:g}" if config.late_fusion else ""
    stages = f"{config.backbone}, motion {config.motion}, {config.fusion_stages} fusion stages{late}"
    head = f"K = {config.clips}, t = {config.clip_length}, {config.num_classes} classes"
    print(f"{stages}; {head}; {config.input_size} pixels\n")
    print(f"{'module':<14}{'parameters':>14}{'GMACs/clip':>14}")
    for name, count in parameters.items():
        print(f"{name:<14}{count:>14,}{macs.get(name, 0) / 1e9:>14.4f}")
    print(f"{'total':<14}{sum(parameters.values()):>14,}{total_gmacs:>14.4f}")


def _configs(arguments: argparse.Namespace) -> list[NetworkConfig]:
    if arguments.model:
        from amma_core.bundle import load

        model = load(arguments.model)
        return [member.network for member in model.members or (model,)]
    stages = arguments.fusion_stages
    config = NetworkConfig(
        num_classes=arguments.num_classes,
        backbone=arguments.backbone,
        motion=arguments.motion,
        fusion_stages=3 if stages is None else stages,
        late_fusion=arguments.late_fusion,
        clips=arguments.clips,
        clip_length=arguments.clip_length,
        input_size=arguments.input_size,
    )
    return [config]

"""How cameras, their topics and their nodes are named, in the nodes and in the launch files."""


def cameras_of(text: str) -> list[str]:
    """The names in a launch argument ``cameras``; one camera without a name if there are none."""
    return [name.strip() for name in text.split(",") if name.strip()] or [""]


def below(camera: str, topic: str) -> str:
    """A camera's own topic; the topic itself for one camera without a name."""
    return f"{camera}/{topic}" if camera else topic


def suffixed(node: str, camera: str) -> str:
    """The name of a camera's own node: nodes' names have no slashes."""
    return f"{node}_{camera.replace('/', '_')}" if camera else node

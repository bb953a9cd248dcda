"""The ROS 2 nodes around :mod:`amma_core`."""

import pkgutil

# The messages are generated elsewhere (``amma_ros.msg``, in the install folder): join both halves, so
# that the nodes also run from the source tree.
__path__ = pkgutil.extend_path(__path__, __name__)

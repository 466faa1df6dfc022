"""A strict stand-in for CANN's ``acl``: real numbers from ONNX Runtime, and every broken rule in a journal.

Put the directory above this one on ``sys.path`` or ``PYTHONPATH``. ``.om`` files are ONNX models. Like pyACL it
returns codes and never raises. Tests talk to :data:`simulator`; a process of its own is told by the environment:

``ACL_SIM_JOURNAL``  a file that gets one line per violation, and one per leak at exit; ``SIMULATOR_JOURNAL`` likewise
``ACL_SIM_FAULTS``   ``mdl.execute:3=507011,rt.malloc:1=207001``: the n-th call of a function returns a code;
                     ``mdl.execute:2=hang`` never returns, and makes the file in ``ACL_SIM_HANGING``
``ACL_SIM_SOC``      the chip's name; a model whose metadata has another ``soc_version`` does not load
"""

from . import mdl, rt, util
from .core import create_data_buffer, destroy_data_buffer, finalize, get_recent_err_msg, get_soc_name, init
from .state import simulator

__all__ = [
    "create_data_buffer",
    "destroy_data_buffer",
    "finalize",
    "get_recent_err_msg",
    "get_soc_name",
    "init",
    "mdl",
    "rt",
    "simulator",
    "util",
]
__version__ = "simulator"

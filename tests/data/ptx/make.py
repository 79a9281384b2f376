"""Compiles the CUDA C++ beside this file to the PTX that the interpreter's tests run.

    pip install nvidia-cuda-nvrtc-cu12==12.0.140 nvidia-cuda-runtime-cu12==12.0.146
    python make.py [FILE.cu ...]

NVRTC needs no GPU. 12.0 writes PTX ISA 8.0, which drivers load from version 525 on.
"""

import ctypes
import sys
from pathlib import Path

import nvidia.cuda_nvrtc
import nvidia.cuda_runtime

ARCHITECTURE = "compute_80"


def compile(source: Path) -> str:
    library = Path(nvidia.cuda_nvrtc.__path__[0]) / "lib/libnvrtc.so.12"
    headers = Path(nvidia.cuda_runtime.__path__[0]) / "include"
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    text, name = source.read_bytes(), source.name.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) == 0
    options = [f"--gpu-architecture={ARCHITECTURE}", f"--include-path={headers}", "--std=c++17"]
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    if failed:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetPTX(program, ptx) == 0
    return ptx.value.decode()


here = Path(__file__).parent
for source in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(here.glob("*.cu")):
    source.with_suffix(".ptx").write_text(compile(source))

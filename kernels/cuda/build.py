"""Compiles the CUDA kernels beside this file to PTX, or checks that what is in ptx/ is what they compile to.

    pip install nvidia-cuda-nvrtc-cu12==12.0.140
    python build.py [--check] [NAME...]

The compiler is NVRTC of CUDA 12.0: it writes PTX ISA 8.0, which drivers from 525 on take. It needs no GPU.
"""

import collections
import ctypes
import importlib.util
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
VERSION = (12, 0)

BLOCK_FORMATS = """Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S
IQ4_XS IQ1_M TQ1_0 TQ2_0 MXFP4 NVFP4""".split()
FLOAT_FORMATS = ["F32", "F16", "BF16"]

# Formats that one layer's queries, keys and values have in files with mixed ones.
PAIRS = """Q2_K+Q3_K Q2_K+Q4_K Q3_K+Q4_K Q3_K+Q5_K Q4_K+Q5_K Q4_K+Q6_K Q4_K+Q8_0 Q5_K+Q6_K Q5_K+Q8_0 IQ1_S+Q4_K
IQ1_M+Q4_K IQ2_XXS+Q4_K IQ2_XS+Q4_K IQ2_S+Q4_K IQ3_XXS+Q4_K IQ3_S+Q4_K IQ4_NL+Q5_K IQ4_XS+Q5_K""".split()


def outputs():
    """Each module: its name, its source, the architecture it is for, and what is defined for it."""
    families = ["norm", "heads", "attention", "elementwise", "experts", "sample", "convolve", "state_space", "delta_net"]
    for name in families:
        yield name, f"{name}.cu", 75, []
    yield "rows", "rows.cu", 75, []
    yield "peak", "peak.cu", 75, []
    for ty in BLOCK_FORMATS:
        yield f"matvec_{ty.lower()}", "matvec.cu", 75, [f"FORMAT={ty}", f"NAME={ty.lower()}"]
    yield "matvec_float", "matvec_float.cu", 75, []
    for pair in [f"{ty}+{ty}" for ty in BLOCK_FORMATS] + PAIRS:
        first, second = pair.split("+")
        name = first.lower() if first == second else f"{first}_{second}".lower()
        yield f"qkv_{name}", "qkv.cu", 75, [f"FIRST={first}", f"SECOND={second}", f"NAME={name}"]
    yield "qkv_float", "qkv.cu", 75, ["FLOATS"]
    # bf16 on tensor cores
    yield "flash", "flash.cu", 80, []
    yield "peak_tensor", "peak.cu", 80, ["TENSOR_CORES"]
    for ty in BLOCK_FORMATS:
        yield f"matmul_{ty.lower()}", "matmul.cu", 80, [f"FORMAT={ty}", f"NAME={ty.lower()}"]
    for ty in FLOAT_FORMATS:
        yield f"matmul_{ty.lower()}", "matmul.cu", 80, [f"FORMAT={ty}", f"NAME={ty.lower()}", "FLOATS"]
    # the same by warpgroups, for compute capability 9.0 alone
    yield "peak_wgmma", "peak.cu", "90a", ["WARPGROUPS"]
    for ty in BLOCK_FORMATS:
        yield f"matmul_wgmma_{ty.lower()}", "matmul_wgmma.cu", "90a", [f"FORMAT={ty}", f"NAME={ty.lower()}"]
    for ty in FLOAT_FORMATS:
        yield f"matmul_wgmma_{ty.lower()}", "matmul_wgmma.cu", "90a", [f"FORMAT={ty}", f"NAME={ty.lower()}", "FLOATS"]


def codebooks():
    """The header with the tables of formats, from the files that the CPU's kernels use."""
    folder = HERE.parent / "src/quant/codebooks"
    text = ["#pragma once", "// Made by build.py."]

    def words(levels):
        levels = list(levels) + [0] * (-len(levels) % 4)
        return [int.from_bytes(bytes(x & 255 for x in levels[i : i + 4]), "little") for i in range(0, len(levels), 4)]

    def constants(name, levels):
        values = ", ".join(f"0x{w:08x}u" for w in words(levels))
        text.append(f"__device__ constexpr unsigned {name}[] = {{{values}}};")

    iq4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    e2m1 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
    constants("IQ4_TABLE", iq4)
    constants("E2M1_TABLE", e2m1)
    constants("IQ3_XXS_LEVELS", [4, 12, 20, 28, 36, 44, 52, 62])
    constants("IQ3_S_LEVELS", [1, 3, 5, 7, 9, 11, 13, 15])
    for name, levels in [("IQ2_LEVELS", [8, 25, 43]), ("IQ1_LEVELS_UP", [-7, 1, 9]), ("IQ1_LEVELS_DOWN", [-9, -1, 7])]:
        text.append(f"constexpr unsigned {name} = 0x{words(levels)[0]:08x}u;")
    for name in ["iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"]:
        data = (folder / f"{name}.bin").read_bytes()
        points = ", ".join(str(int.from_bytes(data[i : i + 2], "little")) for i in range(0, len(data), 2))
        text.append(f"""__device__ __forceinline__ unsigned {name}_point(unsigned place) {{
    static const unsigned short POINTS[] = {{{points}}};
    return POINTS[place];
}}""")
    return "\n".join(text) + "\n"


class Nvrtc:
    """The compiler library of the package."""

    def __init__(self):
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
        if spec is None:
            sys.exit("the package nvidia-cuda-nvrtc-cu12 is not installed")
        folder = pathlib.Path(list(spec.submodule_search_locations)[0]) / "lib"
        self.lib = ctypes.CDLL(str(folder / "libnvrtc.so.12"))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.done(self.lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        if (major.value, minor.value) != VERSION:
            sys.exit(f"NVRTC is of CUDA {major.value}.{minor.value}, not {VERSION[0]}.{VERSION[1]}")

    def done(self, status):
        if status != 0:
            raise RuntimeError(self.lib.nvrtcGetErrorString(status).decode())

    def text(self, program, size, get):
        n = ctypes.c_size_t()
        self.done(size(program, ctypes.byref(n)))
        buffer = ctypes.create_string_buffer(n.value)
        self.done(get(program, buffer))
        return buffer.value.decode()

    def compile(self, source, arch, defines, headers):
        def strings(texts):
            return (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])

        lib, program = self.lib, ctypes.c_void_p()
        path = HERE / source
        created = lib.nvrtcCreateProgram(
            ctypes.byref(program),
            path.read_text().encode(),
            source.encode(),
            len(headers),
            strings(headers.values()),
            strings(headers.keys()),
        )
        self.done(created)
        options = [f"--gpu-architecture=compute_{arch}", "--std=c++17"]
        options += [f"--define-macro={define}" for define in defines]
        status = lib.nvrtcCompileProgram(program, len(options), strings(options))
        if status != 0:
            log = self.text(program, lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog)
            sys.exit(f"{source} ({' '.join(defines)}):\n{log}")
        return self.text(program, lib.nvrtcGetPTXSize, lib.nvrtcGetPTX)


def tidy(ptx):
    """PTX without the compiler's comments, which name its build, and without variables that nothing refers to."""
    lines = [line.rstrip() for line in ptx.splitlines()]
    lines = [line for line in lines if line and not line.lstrip().startswith("//")]
    words = collections.Counter(re.findall(r"[\w$]+", "\n".join(lines)))

    def is_used(line):
        name = re.match(r"\.global .*?([\w$]+)(\[\d*\])?( =.*)?;$", line)
        return not name or words[name.group(1)] > 1

    return "\n".join(line for line in lines if is_used(line)) + "\n"


def main():
    args = sys.argv[1:]
    check = "--check" in args
    names = [arg for arg in args if arg != "--check"]
    nvrtc = Nvrtc()
    headers = {path.name: path.read_text() for path in sorted(HERE.glob("*.cuh"))}
    headers["codebooks.cuh"] = codebooks()
    wrong, known = [], {"build.py"}
    for name, source, arch, defines in outputs():
        known.add(f"{name}.ptx")
        if names and name not in names:
            continue
        ptx = tidy(nvrtc.compile(source, arch, defines, headers))
        path = HERE / "ptx" / f"{name}.ptx"
        if not check:
            path.write_text(ptx)
        elif not path.exists() or path.read_text() != ptx:
            wrong.append(name)
    wrong += [path.name for path in (HERE / "ptx").glob("*") if path.name not in known]
    if wrong:
        sys.exit(f"not what the sources compile to: {', '.join(wrong)}; run {pathlib.Path(__file__).name}")


if __name__ == "__main__":
    main()

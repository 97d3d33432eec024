"""Builds the extensions; everything declarative stands in pyproject.toml.

The C kernels are compiled once per instruction set, with the set's name in every symbol, and linked into one
extension, which chooses among them at import.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = ["csrc/elementwise.c", "csrc/reduce.c", "csrc/gemm.c", "csrc/checksum.c"]  # once per instruction set
SUPPORT = ["csrc/memory.c", "csrc/slab.c", "csrc/dispatch.c"]  # once
HEADERS = ["csrc/" + name for name in sorted(os.listdir("csrc")) if name.endswith(".h")]
ISAS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-mavx2", "-mfma"]
    ISAS["avx512"] = [*ISAS["avx2"], "-mbmi2", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"]

# -ffp-contract=off: a fused multiply-add stands only where the source asks for one, so that results do not depend
# on the compiler's choice. NaN and infinity keep their meaning: no -ffast-math.
CFLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
CFLAGS += ["-Wno-psabi"]
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]
# Python builds extensions with -g, which makes a wheel five times as large; FASTGRAD_SYMBOLS=1 keeps the symbols.
STRIP = ["-s"] if sys.platform == "linux" and not os.environ.get("FASTGRAD_SYMBOLS") else []
SANITIZE = ["-fsanitize=" + os.environ["FASTGRAD_SANITIZE"], "-g"] if os.environ.get("FASTGRAD_SANITIZE") else []


class BuildExt(build_ext):
    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def run(self):
        if sys.platform == "win32":
            sys.exit("fastgrad: Windows is not supported yet; use WSL, or Linux or macOS.")
        compiler = os.environ.get("CC", "cc").split()[0]
        if shutil.which(compiler) is None:
            sys.exit(f"fastgrad: no C compiler found (no '{compiler}'): install gcc or clang, or set CC to one.")
        from Cython.Build import cythonize  # here: `setup.py --version` must not need it

        self.extensions[:] = cythonize(
            self.extensions,
            language_level=3,
            annotate=bool(os.environ.get("FASTGRAD_ANNOTATE")),
            compiler_directives={"cdivision": True},
        )
        import numpy

        for extension in self.extensions:
            extension._needs_stub = False
            extension.include_dirs.append(numpy.get_include())
        self.swig_opts = []
        super().run()

    def build_extension(self, extension):
        if extension.name == "fastgrad.runtime":
            def compile_one(job):
                isa, source = job
                return self.compiler.compile(
                    [source],
                    output_dir=os.path.join(self.build_temp, isa),
                    include_dirs=["csrc"],
                    macros=[("FG_ISA", isa)],
                    extra_postargs=CFLAGS + OPENMP + SANITIZE + ISAS[isa],
                    depends=HEADERS,
                )

            with ThreadPoolExecutor(self.parallel) as pool:
                for objects in pool.map(compile_one, [(isa, source) for isa in ISAS for source in KERNELS]):
                    extension.extra_objects += objects
        super().build_extension(extension)


def extension(name, source, sources=(), depends=()):
    return Extension(
        f"fastgrad.{name}",
        [source, *sources],
        include_dirs=["csrc"],
        extra_compile_args=CFLAGS[1:] + OPENMP + SANITIZE + ["-Wno-unused-function"],
        extra_link_args=OPENMP + SANITIZE + (STRIP if not SANITIZE else []),
        depends=[*HEADERS, *depends],
    )


setup(
    ext_modules=[
        extension("runtime", "fastgrad/runtime.pyx", SUPPORT, KERNELS),
        extension("tensor", "fastgrad/tensor.pyx"),
        extension("tape", "fastgrad/tape.py"),
        extension("dispatch", "fastgrad/dispatch.pyx"),
        extension("updates", "fastgrad/updates.pyx"),
        extension("kernels", "fastgrad/kernels.pyx"),
        extension("watch", "fastgrad/watch.pyx"),
        extension("passes", "fastgrad/passes.pyx"),
        extension("recorder", "fastgrad/recorder.pyx"),
        extension("arrays", "fastgrad/arrays.pyx"),
        extension("program", "fastgrad/program.pyx"),
        extension("finish", "fastgrad/finish.pyx"),
        extension("replay", "fastgrad/replay.pyx"),
    ],
    cmdclass={"build_ext": BuildExt},
)

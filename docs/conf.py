"""The documentation site: `uv run --group docs sphinx-build -W --keep-going docs build/site`."""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

# The tutorials' kernels inherit this: programs that compile fast, kept from one tutorial for the next, on one core.
programs = HERE.parent / "build" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = ["--xla_backend_optimization_level=0"]
if version_of("jaxlib").startswith("0.10."):  # as in the tests: newer versions have no such flags, and end at them
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
# Progress bars without widgets; the kernels' word on how they are spoken to.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
profile = HERE.parent / "build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text(
    "c.IPKernelApp.log_level = 'ERROR'\nc.IPKernelApp.matplotlib = 'inline'\n"
)
os.environ["IPYTHONDIR"] = str(profile.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

project = "kpoison"
author = "The kpoison developers"
copyright = author  # noqa: A001
version = release = version_of("kpoison")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "room"]
exclude_patterns = ["_ext", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb"}

# Pages are also read on a git host: its dollars for mathematics, its anchors for headings.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_merge_streams = True
# What a tutorial prints there is a warning, which fails the build.
nb_output_stderr = "error"

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# With their shapes, as written, and no guess at what else bears an attribute's name.
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 80
add_module_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"kpoison {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# A page opened from disk may not read another one.
html_show_search_summary = False

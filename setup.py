"""Installs `xcoop` and its plug-in folders (`trainers/`, `datasets/`, ...) as one package."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Those that XCoOp is for, oldest first; scripts/env.sh reads this line.
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
PLUGINS = ("trainers", "datasets", "concept_banks", "configs")


def version() -> str:
    """The one place that states the version is `src/xcoop/version.py`."""
    return (ROOT / "src/xcoop/version.py").read_text().split('"')[-2]


# The plug-in folders stand where a CoOp user looks for them, and install below `xcoop.`: a top-level
# `datasets` would hide the well-known library of that name.
packages = find_packages("src") + [f"xcoop.{name}" for name in PLUGINS]
package_dir = {"": "src"} | {f"xcoop.{name}": name for name in PLUGINS}

EXTRAS = {
    # What Dassl itself imports at run time; Dassl is not on PyPI, and is installed from a checkout.
    "dassl": ["pandas", "ftfy", "regex"],
    # What asks a language model for a concept bank.
    "elicit": ["openai>=1.40"],
    # PH2's spreadsheet, where its text file is not at hand.
    "xlsx": ["openpyxl>=3.1"],
    # More visual explanations: any attribution of captum.
    "xai": ["captum==0.9.*"],
    # The page on which images can be dropped.
    "demo": ["gradio>=5"],
    # Architectures and weights of open_clip by their names. Folders of its models are read without it; a text tower
    # that is a BERT needs tokenizers.
    "open_clip": ["open_clip_torch>=2.24", "timm>=1.0", "tokenizers>=0.20", "huggingface_hub>=0.25"],
    # Models of Hugging Face's hub by their names.
    "hf": ["transformers>=4.45", "tokenizers>=0.20", "sentencepiece>=0.2", "huggingface_hub>=0.25"],
    # Tracks runs (WANDB.PROJECT).
    "wandb": ["wandb>=0.19"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "mypy>=1.11",
        "types-PyYAML",
        "types-tabulate",
        "types-tqdm",
        "openai>=1.40",
        "openpyxl>=3.1",
        # Features of other backbones are compared with those of the libraries that they come from.
        "open_clip_torch>=3.0",
        "timm>=1.0",
        "transformers>=4.45",
        "tokenizers>=0.20",
        "sentencepiece>=0.2",
    ],
}

setup(
    name="xcoop",
    version=version(),
    description="Explainable, concept-guided prompt learning for medical images, as a plug-in for CoOp and Dassl",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=f">={PYTHONS[0]}",
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
    ],
    packages=packages,
    package_dir=package_dir,
    package_data={"": ["**/*.yaml", "**/*.safetensors", "**/*.md", "**/*.json", "**/*.j2"]},
    install_requires=[
        "torch>=2.5",
        "torchvision",
        "numpy>=1.26",
        "Pillow>=9.1",
        "yacs>=0.1.8",
        "clip-anytorch>=2.6.0",
        "packaging",
        "gdown>=5",
        "tabulate>=0.9",
        "pyyaml>=6",
        "tqdm>=4.60",
        "scikit-learn>=1.3",
        "joblib>=1.3",
        "scipy>=1.11",
        "tensorboard>=2.14",
        "safetensors>=0.4",
        "filelock>=3.30",
        "pydantic>=2.5",
        "jinja2>=3.1",
        "submitit>=1.5",
        # Tables, statistics and figures of `xcoop results`.
        "pandas>=2.1",
        "scikit-posthocs>=0.9",
        "matplotlib>=3.7",
    ],
    extras_require=EXTRAS | {"all": sorted({need for needs in EXTRAS.values() for need in needs})},
    entry_points={"console_scripts": ["xcoop = xcoop.cli:main"]},
)

"""Writes the inventories that links to Python and torch are resolved with: a few dozen names, kept in the repository.

    python docs/_ext/inventories.py

The real inventories would have to be fetched for every build. A name that is missing here is shown without a link.
"""

import zlib
from pathlib import Path

# Name, role, page below the address of the project. "$" stands for the name.
PYTHON = {
    "py:class": {
        "str": "library/stdtypes.html#$",
        "int": "library/functions.html#$",
        "float": "library/functions.html#$",
        "bool": "library/functions.html#$",
        "tuple": "library/stdtypes.html#$",
        "list": "library/stdtypes.html#$",
        "dict": "library/stdtypes.html#$",
        "object": "library/functions.html#$",
        "slice": "library/functions.html#$",
        "pathlib.Path": "library/pathlib.html#$",
        "os.PathLike": "library/os.html#$",
        "enum.StrEnum": "library/enum.html#$",
        "collections.abc.Callable": "library/collections.abc.html#$",
        "collections.abc.Iterator": "library/collections.abc.html#$",
        "collections.abc.Iterable": "library/collections.abc.html#$",
        "collections.abc.Sequence": "library/collections.abc.html#$",
        "collections.abc.Mapping": "library/collections.abc.html#$",
    },
    "py:data": {
        "None": "library/constants.html#$",
        "typing.Any": "library/typing.html#$",
        "typing.Union": "library/typing.html#$",
        "typing.Literal": "library/typing.html#$",
    },
    "py:exception": {
        "AssertionError": "library/exceptions.html#$",
        "ImportError": "library/exceptions.html#$",
        "IndexError": "library/exceptions.html#$",
        "KeyError": "library/exceptions.html#$",
        "OSError": "library/exceptions.html#$",
        "RuntimeError": "library/exceptions.html#$",
        "TypeError": "library/exceptions.html#$",
        "UserWarning": "library/exceptions.html#$",
        "RuntimeWarning": "library/exceptions.html#$",
        "ValueError": "library/exceptions.html#$",
    },
}
TORCH = {
    "py:class": {
        "torch.Tensor": "tensors.html#$",
        "torch.Generator": "generated/torch.Generator.html#$",
        "torch.device": "tensor_attributes.html#$",
        "torch.dtype": "tensor_attributes.html#$",
        "torch.nn.Module": "generated/torch.nn.Module.html#$",
        "torch.nn.Parameter": "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter",
        "torch.nn.parameter.Parameter": "generated/torch.nn.parameter.Parameter.html#$",
        "torch.utils.data.DataLoader": "data.html#$",
    },
    "py:module": {"torch.distributed": "distributed.html#module-$"},
    "py:function": {
        "torch.compile": "generated/torch.compile.html#$",
        "torch.multinomial": "generated/torch.multinomial.html#$",
    },
}


def inventory(project: str, objects: dict[str, dict[str, str]]) -> bytes:
    """The file format of Sphinx, version 2."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{name} {role} 1 {page} -\n" for role, names in objects.items() for name, page in names.items()]
    return head.encode() + zlib.compress("".join(lines).encode())


def main() -> None:
    """Write both files."""
    folder = Path(__file__).parents[1] / "inventories"
    folder.mkdir(exist_ok=True)
    for project, objects in (("python", PYTHON), ("torch", TORCH)):
        (folder / f"{project}.inv").write_bytes(inventory(project, objects))


if __name__ == "__main__":
    main()

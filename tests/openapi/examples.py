"""Checks descriptions by the schema of OpenAPI, and each example in them by the schema beside it."""

import sys

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

METHODS = ("get", "put", "post", "delete", "patch")
ROOT = "urn:description"


def pointer(path):
    return "#/" + "/".join(str(part).replace("~", "~0").replace("/", "~1").replace("%", "%25") for part in path)


def schemas_with_examples(node, path=()):
    """All examples: the path of the schema that each of them must fit, and its value."""
    if isinstance(node, dict):
        if "schema" in node:
            schema = (*path, "schema")
            if "example" in node:
                yield schema, node["example"]
            for example in node.get("examples", {}).values():
                yield schema, example["value"]
        elif isinstance(node.get("examples"), list):
            yield from ((path, value) for value in node["examples"])
        for name, member in node.items():
            if name != "examples":
                yield from schemas_with_examples(member, (*path, name))
    elif isinstance(node, list):
        for number, member in enumerate(node):
            yield from schemas_with_examples(member, (*path, number))


def without_example(node, path=()):
    """The contents that have none."""
    if isinstance(node, dict):
        for media_type, content in node.get("content", {}).items():
            if not content.get("examples"):
                yield f"{pointer(path)} {media_type}"
        for name, member in node.items():
            yield from without_example(member, (*path, name))


def check(file):
    with open(file, encoding="utf-8") as opened:
        description = yaml.safe_load(opened)
    validate(description)
    registry = Registry().with_resource(ROOT, Resource(description, DRAFT202012))
    faults, count = [f"no example: {where}" for where in without_example(description)], 0
    for path, value in schemas_with_examples(description):
        count += 1
        validator = Draft202012Validator(
            {"$ref": f"{ROOT}{pointer(path)}"},
            registry=registry,
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        faults += [f"{pointer(path)}: {error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    operations = sum(method in METHODS for item in description["paths"].values() for method in item)
    print(f"{file}: {operations} operations, {count} examples")
    for fault in faults:
        print(fault, file=sys.stderr)
    return not faults and count > operations


if __name__ == "__main__":
    sys.exit(not all([check(file) for file in sys.argv[1:]]))

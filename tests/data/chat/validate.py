"""Reads [{"schema": ..., "output": TEXT}, ...] and prints what is wrong with each output, or null, as a JSON list."""

import json
import sys

import jsonschema


def wrong(case):
    try:
        validator = jsonschema.Draft202012Validator(
            case["schema"], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        errors = list(validator.iter_errors(json.loads(case["output"])))
        return errors[0].message if errors else None
    except (ValueError, jsonschema.SchemaError) as error:
        return f"{type(error).__name__}: {error}"


json.dump([wrong(case) for case in json.load(sys.stdin)], sys.stdout)

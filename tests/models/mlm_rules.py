"""What the Machine Learning Model extension 1.4.0 asks of an item, as a JSON schema.

Written for these tests from the tables of the extension's specification, for the parts that
our items use; stricter where the specification recommends. The official schema is not kept
here: it is used where it lies beside the project, or can be fetched.
"""

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
TASK = {
    "enum": [
        "regression", "classification", "scene-classification", "detection", "object-detection",
        "segmentation", "semantic-segmentation", "instance-segmentation", "panoptic-segmentation",
        "similarity-search", "generative", "image-captioning", "super-resolution",
    ]
}  # fmt: skip
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
ARRAY = {
    "type": "object",
    "required": ["shape", "dim_order", "data_type"],
    "properties": {
        "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
        "dim_order": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": "^[a-z-_]+$"},
        },
        "data_type": {"enum": ["float16", "float32", "float64", "uint8", "int16", "uint16"]},
    },
}
SCALING = {
    "type": "object",
    "required": ["type", "mean", "stddev"],
    "properties": {
        "type": {"const": "z-score"},
        "mean": {"type": "number"},
        "stddev": {"type": "number", "exclusiveMinimum": 0},
    },
    "additionalProperties": False,
}
INPUT = {
    "type": "object",
    "required": ["name", "bands", "input", "value_scaling"],
    "properties": {
        "name": TEXT,
        "bands": {"type": "array", "minItems": 1, "items": TEXT},
        "input": ARRAY,
        "description": TEXT,
        "value_scaling": {"type": "array", "minItems": 1, "items": SCALING},
        "resize_type": {"type": "null"},
        "pre_processing_function": {"type": "null"},
    },
    "additionalProperties": False,
}
CLASS = {
    "type": "object",
    "required": ["value", "name", "description", "color_hint"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
        "title": TEXT,
        "description": TEXT,
        "color_hint": {"type": "string", "pattern": "^[0-9A-Fa-f]{6}$"},
    },
    "additionalProperties": False,
}
OUTPUT = {
    "type": "object",
    "required": ["name", "tasks", "result"],
    "properties": {
        "name": TEXT,
        "tasks": {"type": "array", "uniqueItems": True, "items": TASK},
        "result": ARRAY,
        "description": TEXT,
        "classification:classes": {
            "type": "array", "minItems": 1, "uniqueItems": True, "items": CLASS,
        },
        "post_processing_function": {"type": "null"},
    },
    "additionalProperties": False,
}  # fmt: skip
FIELDS = {
    "mlm:name": {"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
    "mlm:architecture": TEXT,
    "mlm:tasks": {"type": "array", "minItems": 1, "uniqueItems": True, "items": TASK},
    "mlm:framework": {"const": "PyTorch"},
    "mlm:framework_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    "mlm:total_parameters": COUNT,
    "mlm:pretrained": {"type": "boolean"},
    "mlm:pretrained_source": {"type": ["string", "null"]},
    "mlm:accelerator": {"type": "null"},
    "mlm:input": {"type": "array", "minItems": 1, "items": INPUT},
    "mlm:output": {"type": "array", "minItems": 1, "items": OUTPUT},
    "mlm:hyperparameters": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"},
    },
}
ASSET = {
    "type": "object",
    # The role and the kind of artifact come together; what belongs to the model as a whole
    # stands in the item's properties only.
    "if": {"properties": {"roles": {"contains": {"const": "mlm:model"}}}, "required": ["roles"]},
    "then": {"required": ["mlm:artifact_type"]},
    "else": {"not": {"required": ["mlm:artifact_type"]}},
    "propertyNames": {"pattern": "^(?!mlm:(?!artifact_type$))"},
    "properties": {
        "href": {"type": "string", "pattern": r"^\./[^/]+$"},
        "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"},
        "file:size": COUNT,
    },
}
RULES = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["stac_version", "stac_extensions", "properties", "assets"],
    "properties": {
        # Bands are those of STAC 1.1.
        "stac_version": {"type": "string", "pattern": r"^1\.[1-9]"},
        "stac_extensions": {"type": "array", "uniqueItems": True, "contains": {"const": MLM}},
        "properties": {
            "type": "object",
            "required": ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output",
                         "bands"],
            "properties": FIELDS,
            "patternProperties": {"^(?!mlm:)": True},
            "additionalProperties": False,
        },
        "assets": {
            "type": "object",
            "additionalProperties": ASSET,
            "anyOf": [{"required": ["weights"]}],
        },
    },
}  # fmt: skip

//! Random JSON schemas of all sorts. What is valid for one is never long, so that a model comes to an end.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// The schema that `seed` gives.
pub fn schema(seed: u64) -> Value {
    let mut rng = Rng::with_seed(seed);
    let mut schema = object(&mut rng, 1);
    if rng.u8(..4) == 0 {
        schema = json!({"type": "array", "items": schema, "minItems": 1, "maxItems": 2});
    }
    let shared = scalar(&mut rng);
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("$defs".into(), json!({"shared": shared, "a/b": {"type": "boolean"}}));
    }
    schema
}

fn any(rng: &mut Rng, depth: usize) -> Value {
    match rng.u8(..10) {
        0..2 if depth > 0 => object(rng, depth - 1),
        2 if depth > 0 => array(rng, depth - 1),
        3 if depth > 0 => json!({"anyOf": [any(rng, depth - 1), scalar(rng)]}),
        4 => json!({"$ref": if rng.bool() { "#/$defs/shared" } else { "#/$defs/a~1b" }}),
        _ => scalar(rng),
    }
}

fn object(rng: &mut Rng, depth: usize) -> Value {
    const NAMES: [&str; 10] =
        ["name", "id", "an age", "größe", "quote\"d", "tags", "π", "back\\slash", "is_ok", "x"];
    let mut names = NAMES.to_vec();
    rng.shuffle(&mut names);
    names.truncate(rng.usize(1..=3));
    let properties: Map<String, Value> =
        names.iter().map(|name| (name.to_string(), any(rng, depth))).collect();
    let required: Vec<&str> = names.into_iter().filter(|_| rng.u8(..3) > 0).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn array(rng: &mut Rng, depth: usize) -> Value {
    let least = rng.usize(0..=2);
    match rng.u8(..3) {
        0 => {
            json!({"type": "array", "prefixItems": [scalar(rng), any(rng, depth)], "items": false, "minItems": 2})
        }
        _ => {
            json!({"type": "array", "items": any(rng, depth), "minItems": least, "maxItems": least + rng.usize(0..=2)})
        }
    }
}

fn scalar(rng: &mut Rng) -> Value {
    let low = rng.i32(-1000..1000);
    match rng.u8(..17) {
        0 => json!({"type": "integer", "minimum": low, "maximum": low + rng.i32(0..5000)}),
        1 => json!({"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + rng.i32(2..90)}),
        2 => json!({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500}),
        3 => json!({"type": "number", "minimum": -1.5, "maximum": f64::from(low.abs()) + 0.25}),
        4 => json!({"type": "boolean"}),
        5 => json!({"type": "null"}),
        6 => json!({"type": ["boolean", "null"]}),
        7 => json!({"enum": ["red", "grün", 3, null, true, 1.5, "with \"quotes\""]}),
        8 => json!({"const": {"fixed": [1, "two"]}}),
        9 => {
            let least = rng.usize(0..6);
            json!({"type": "string", "minLength": least, "maxLength": least + rng.usize(0..12)})
        }
        10 => json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}),
        11 => json!({"type": "string", "pattern": "^(ab|c(d|é)?){1,4}$"}),
        12 => json!({"type": "string", "format": "date"}),
        13 => json!({"type": "string", "format": "uuid"}),
        14 => json!({"type": "string", "format": "ipv4"}),
        15 => json!({"type": "string", "format": "ipv6"}),
        _ => {
            json!({"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "enum": ["", "none"]}]})
        }
    }
}

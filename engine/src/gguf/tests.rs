//! What is written is read; malformed files are in `tests/gguf_malformed.rs`.

use std::fs;
use std::hint;
use std::time::Instant;

use braise_kernels::quant::Type;
use tempfile::{NamedTempFile, TempDir};

use super::*;

fn write(writer: &Writer<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path())
}

fn reopen(writer: &Writer<'_>) -> Gguf {
    open(&write(writer)).unwrap()
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// One key of every type; extremes, so that a wrong width or sign shows.
fn every_type() -> Writer<'static> {
    Writer::new()
        .metadata("u8", u8::MAX)
        .metadata("i8", i8::MIN)
        .metadata("u16", u16::MAX)
        .metadata("i16", i16::MIN)
        .metadata("u32", u32::MAX)
        .metadata("i32", i32::MIN)
        .metadata("u64", u64::MAX)
        .metadata("i64", i64::MIN)
        .metadata("f32", f32::MIN_POSITIVE)
        .metadata("f64", std::f64::consts::PI)
        .metadata("yes", true)
        .metadata("no", false)
        .metadata("text", "größe")
        .metadata("raw", ByteStr(b"\xff\xfe"))
        .metadata("u32s", [1_u32, 2, u32::MAX])
        .metadata("i8s", [-1_i8, 0, 1])
        .metadata("f32s", vec![0.5_f32, -1.5])
        .metadata("bools", [true, false])
        .metadata("strs", ["a", "", "größe"])
        .metadata("raws", [ByteStr(b"\x80"), ByteStr(b"b")])
        .metadata("nested", vec![vec!["x", "y"], vec![], vec!["z"]])
        .metadata("empty", [0_u64; 0])
}

#[test]
fn values_of_every_type_survive() {
    let gguf = reopen(&every_type());
    let m = gguf.metadata();
    assert_eq!(gguf.version(), 3);
    assert_eq!(m.len(), 22);
    assert_eq!(m.get("u8"), Some(Value::U8(u8::MAX)));
    assert_eq!(m.get("i8"), Some(Value::I8(i8::MIN)));
    assert_eq!(m.get("u16"), Some(Value::U16(u16::MAX)));
    assert_eq!(m.get("i16"), Some(Value::I16(i16::MIN)));
    assert_eq!(m.get("u32"), Some(Value::U32(u32::MAX)));
    assert_eq!(m.get("i32"), Some(Value::I32(i32::MIN)));
    assert_eq!(m.get("u64"), Some(Value::U64(u64::MAX)));
    assert_eq!(m.get("i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(m.get("f32"), Some(Value::F32(f32::MIN_POSITIVE)));
    assert_eq!(m.get("f64"), Some(Value::F64(std::f64::consts::PI)));
    assert_eq!(m.get("yes"), Some(Value::Bool(true)));
    assert_eq!(m.get("no"), Some(Value::Bool(false)));
    assert_eq!(m.get("text"), Some(Value::Str("größe".as_bytes())));
    assert_eq!(m.get("raw"), Some(Value::Str(b"\xff\xfe")));
    assert_eq!(m.get("absent"), None);
    let keys: Vec<_> = m.iter().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["u8", "i8", "u16"], "keys come in the file's order");
}

#[test]
fn arrays_survive() {
    let gguf = reopen(&every_type());
    let m = gguf.metadata();
    assert_eq!(m.u32s("u32s").unwrap().unwrap(), [1, 2, u32::MAX]);
    assert_eq!(m.f32s("f32s").unwrap().unwrap(), [0.5, -1.5]);
    assert_eq!(m.bools("bools").unwrap().unwrap(), [true, false]);
    assert_eq!(m.strs("strs").unwrap().unwrap(), ["a", "", "größe"]);
    assert_eq!(m.byte_strs("raws").unwrap().unwrap(), [b"\x80", b"b"]);
    assert_eq!(m.u32s("empty").unwrap().unwrap(), [0_u32; 0]);
    let i8s = m.get("i8s").unwrap().array().unwrap();
    assert_eq!(i8s.iter().collect::<Vec<_>>(), [Value::I8(-1), Value::I8(0), Value::I8(1)]);

    let nested = m.get("nested").unwrap().array().unwrap();
    assert_eq!((nested.ty(), nested.len()), (ValueType::Array, 3));
    let rows: Vec<Vec<_>> =
        nested.iter().map(|row| row.array().unwrap().iter().filter_map(Value::text).collect()).collect();
    assert_eq!(rows, [vec!["x", "y"], vec![], vec!["z"]]);
}

#[test]
fn metadata_copied_from_a_file_is_the_same_bytes() {
    let original = write(&every_type());
    let gguf = open(&original).unwrap();
    let copy = gguf.metadata().iter().fold(Writer::new(), |w, (key, value)| w.metadata(key, value));
    assert_eq!(write(&copy), original);
}

#[test]
fn getters_take_what_fits() {
    let gguf = reopen(&every_type().metadata("small", 7_i64).metadata("minus", -7_i8));
    let m = gguf.metadata();
    assert_eq!(m.u32("small").unwrap(), Some(7));
    assert_eq!(m.i32("minus").unwrap(), Some(-7));
    assert_eq!(m.u64("u8").unwrap(), Some(255));
    assert_eq!(m.f32("f64").unwrap(), Some(std::f32::consts::PI));
    assert_eq!(m.require_str("text").unwrap(), "größe");
    assert!(m.require_bool("yes").unwrap());
    assert_eq!(m.u32("absent").unwrap(), None);
}

#[test]
fn getters_say_what_does_not_fit() {
    let gguf = reopen(&every_type().metadata("minus", -7_i8));
    let m = gguf.metadata();
    let has = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    let file = gguf.path().display().to_string();
    has(message(m.u32("minus")), &[&file, "`minus`", "the i8 -7", "0 to 2^32 - 1"]);
    has(message(m.u32("u64")), &["the u64 18446744073709551615"]);
    has(message(m.u32("f32")), &["`f32` is the f32"]);
    has(message(m.f32("u32")), &["the u32 4294967295", "a float"]);
    has(message(m.bool("u8")), &["the u8 255", "a bool"]);
    has(message(m.str("raw")), &["a string", "UTF-8"]);
    has(message(m.strs("raws")), &["an array of 2 string values", "UTF-8"]);
    has(message(m.u32s("i8s")), &["an array of 3 i8 values"]);
    has(message(m.u32s("u32")), &["`u32` is the u32 4294967295, not an array"]);
    has(message(m.require_u32("absent")), &[&file, "`absent` is missing"]);
    assert_eq!(m.require_u32("absent").unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn values_print_for_people() {
    let gguf = reopen(&every_type().metadata("long", (0..20_u8).collect::<Vec<_>>()));
    let show = |key| gguf.metadata().get(key).unwrap().to_string();
    assert_eq!(show("i64"), "-9223372036854775808");
    assert_eq!(show("raw"), "\u{fffd}\u{fffd}");
    assert_eq!(show("nested"), "[[x, y], [], [z]]");
    assert_eq!(show("long"), "[0, 1, 2, 3, 4, 5, 6, 7, ... (20 in all)]");
}

#[test]
fn tensors_of_every_type_survive() {
    let data: Vec<Vec<u8>> =
        Type::ALL.iter().map(|ty| (0..3 * ty.bytes()).map(|i| (i + *ty as usize) as u8).collect()).collect();
    for alignment in [None, Some(1_u32), Some(64)] {
        let mut writer = Writer::new();
        if let Some(alignment) = alignment {
            writer = writer.metadata("general.alignment", alignment);
        }
        for (ty, data) in Type::ALL.iter().zip(&data) {
            writer = writer.tensor(ty.name(), &[ty.block() as u64, 3], *ty, data);
        }
        let gguf = reopen(&writer);
        assert_eq!(gguf.tensors().len(), Type::ALL.len());
        for ((tensor, ty), data) in gguf.tensors().iter().zip(Type::ALL).zip(&data) {
            assert_eq!((tensor.name.as_str(), tensor.ty), (ty.name(), *ty));
            assert_eq!((tensor.row_len(), tensor.rows(), tensor.n_bytes()), (ty.block(), 3, data.len()));
            assert_eq!(gguf.data(tensor), data);
            assert_eq!(gguf.tensor(ty.name()).unwrap().dims, [ty.block() as u64, 3]);
            let start = gguf.data(tensor).as_ptr() as usize;
            assert!(start.is_multiple_of(alignment.unwrap_or(32) as usize), "{ty} is aligned in memory");
        }
    }
}

#[test]
fn odd_shapes_are_read() {
    let gguf = reopen(
        &Writer::new()
            .tensor("scalar", &[], Type::F32, vec![1; 4])
            .tensor("empty", &[0, 5], Type::F32, vec![])
            .tensor("no_rows", &[32, 0], Type::Q8_0, vec![])
            .tensor("four", &[2, 3, 4, 5], Type::F16, vec![2; 240]),
    );
    let shape = |name| {
        let tensor = gguf.require(name).unwrap();
        (tensor.row_len(), tensor.rows(), gguf.data(tensor).len())
    };
    assert_eq!(shape("scalar"), (1, 1, 4));
    assert_eq!(shape("empty"), (0, 5, 0));
    assert_eq!(shape("no_rows"), (32, 0, 0));
    assert_eq!(shape("four"), (2, 60, 240));
    assert!(message(gguf.require("output.weight")).contains("the tensor `output.weight` is missing"));
}

#[test]
fn version_2_is_read() {
    let mut bytes = write(&every_type());
    bytes[4] = 2;
    let gguf = open(&bytes).unwrap();
    assert_eq!((gguf.version(), gguf.bytes()), (2, bytes.len() as u64));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let refused = |writer: Writer<'_>, part: &str| {
        let mut out = Vec::new();
        let error = writer.write_to(&mut out).unwrap_err();
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
        assert_eq!((error.kind(), out.len()), (ErrorKind::Input, 0), "{error}");
    };
    let tensor = |dims: &[u64], ty, n_bytes| Writer::new().tensor("a", dims, ty, vec![0; n_bytes]);
    refused(tensor(&[2], Type::F32, 8).tensor("a", &[1], Type::F32, vec![0; 4]), "two tensors `a`");
    refused(tensor(&[2], Type::F32, 7), "takes 8 bytes, but 7");
    refused(tensor(&[33], Type::Q4_0, 0), "rows of 33 weights");
    refused(tensor(&[1; 5], Type::F32, 4), "[1, 1, 1, 1, 1]");
    refused(tensor(&[2], Type::F32, 8).metadata("general.alignment", 48_u32), "is 48, which is no power");
    refused(tensor(&[2], Type::F32, 8).metadata("general.alignment", "32"), "general.alignment");
}

#[test]
fn a_key_set_twice_has_the_last_value() {
    let gguf = reopen(&Writer::new().metadata("a", 1_u32).metadata("b", 2_u32).metadata("a", "three"));
    let all: Vec<_> = gguf.metadata().iter().collect();
    assert_eq!(all, [("a", Value::Str(b"three")), ("b", Value::U32(2))]);
}

/// Writes a set of three parts with two tensors each, and gives its folder.
fn split_set() -> TempDir {
    let dir = TempDir::new().unwrap();
    for no in 0..3_u16 {
        write_part(&dir, no, no, 3, 6);
    }
    dir
}

fn part_path(dir: &TempDir, no: u16) -> PathBuf {
    dir.path().join(format!("big-{:05}-of-00003.gguf", no + 1))
}

/// Writes part `no` of the set, which says it is part `says` of `count`, the whole set holding `tensors`.
fn write_part(dir: &TempDir, no: u16, says: u16, count: u16, tensors: i32) {
    let mut writer = Writer::new();
    if no == 0 {
        writer = writer.metadata("general.name", "big");
    }
    let bytes = write(
        &writer
            .metadata("split.no", says)
            .metadata("split.count", count)
            .metadata("split.tensors.count", tensors)
            .tensor(&format!("a.{no}"), &[4], Type::I8, vec![no as u8; 4])
            .tensor(&format!("b.{no}"), &[2], Type::I8, vec![10 + no as u8; 2]),
    );
    fs::write(part_path(dir, no), bytes).unwrap();
}

#[test]
fn any_part_opens_the_set() {
    let dir = split_set();
    for no in [2, 0, 1] {
        let gguf = Gguf::open(&part_path(&dir, no)).unwrap();
        assert_eq!(gguf.path(), part_path(&dir, no));
        assert_eq!(gguf.files().collect::<Vec<_>>(), [0, 1, 2].map(|no| part_path(&dir, no)));
        assert_eq!(gguf.bytes(), gguf.files().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>());
        assert_eq!(gguf.metadata().require_str("general.name").unwrap(), "big");
        let names: Vec<_> = gguf.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a.0", "b.0", "a.1", "b.1", "a.2", "b.2"]);
        for no in 0..3_u8 {
            assert_eq!(gguf.data(gguf.require(&format!("a.{no}")).unwrap()), [no; 4]);
            assert_eq!(gguf.data(gguf.require(&format!("b.{no}")).unwrap()), [10 + no; 2]);
        }
    }
}

#[test]
fn broken_sets_are_refused() {
    let refused = |dir: &TempDir, opened: u16, kind, named: PathBuf, part: &str| {
        let error = Gguf::open(&part_path(dir, opened)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&*named.to_string_lossy()), "{text} does not name {}", named.display());
        assert!(text.contains(part), "`{part}` is not in: {text}");
        assert_eq!(error.kind(), kind, "{text}");
    };

    let dir = split_set();
    fs::remove_file(part_path(&dir, 1)).unwrap();
    refused(&dir, 2, ErrorKind::Io, part_path(&dir, 1), "part 2 of 3 is missing");

    let dir = split_set();
    write_part(&dir, 1, 1, 4, 6);
    refused(
        &dir,
        0,
        ErrorKind::Malformed,
        part_path(&dir, 1),
        "part 2 of 3, but says that it is part 2 of 4",
    );
    refused(&dir, 1, ErrorKind::Input, part_path(&dir, 1), "does not end in `-00002-of-00004.gguf`");

    let dir = split_set();
    write_part(&dir, 1, 2, 3, 6);
    refused(&dir, 0, ErrorKind::Malformed, part_path(&dir, 1), "says that it is part 3 of 3");

    let dir = split_set();
    write_part(&dir, 1, 3, 3, 6);
    refused(&dir, 1, ErrorKind::Malformed, part_path(&dir, 1), "`split.no` is 3");

    let dir = split_set();
    write_part(&dir, 0, 0, 3, 7);
    refused(&dir, 2, ErrorKind::Malformed, part_path(&dir, 0), "should hold 7 tensors");

    let dir = split_set();
    fs::write(part_path(&dir, 1), write(&Writer::new())).unwrap();
    refused(&dir, 0, ErrorKind::Malformed, part_path(&dir, 1), "says that it is a whole model");

    let dir = split_set();
    fs::write(part_path(&dir, 2), b"GGUF").unwrap();
    refused(&dir, 0, ErrorKind::Malformed, part_path(&dir, 2), "ends within its header");

    let dir = split_set();
    let twice = write(
        &Writer::new()
            .metadata("split.no", 2_u16)
            .metadata("split.count", 3_u16)
            .tensor("a.2", &[1], Type::I8, vec![0])
            .tensor("b.0", &[1], Type::I8, vec![0]),
    );
    fs::write(part_path(&dir, 2), twice).unwrap();
    refused(&dir, 0, ErrorKind::Malformed, part_path(&dir, 2), "the tensor `b.0` occurs twice");
}

#[test]
fn a_set_of_one_needs_no_special_name() {
    let gguf = reopen(&Writer::new().metadata("split.no", 0_u16).metadata("split.count", 1_u16));
    assert_eq!(gguf.files().count(), 1);
}

#[test]
fn a_large_vocabulary_costs_a_walk() {
    let tokens: Vec<String> = (0..256 * 1024).map(|i| format!("token{i}")).collect();
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), write(&Writer::new().metadata("tokenizer.ggml.tokens", &tokens))).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    let strs = gguf.metadata().require_strs("tokenizer.ggml.tokens").unwrap();
    assert_eq!(strs, tokens);

    // The walk takes about a fifth of the time of a copy. Both at their best, so that a busy machine fails neither.
    let best = |run: &dyn Fn() -> usize| {
        let times = (0..10).map(|_| {
            let start = Instant::now();
            assert!(run() > 0);
            start.elapsed()
        });
        times.min().unwrap()
    };
    let open = best(&|| Gguf::open(file.path()).unwrap().metadata().len());
    let copy =
        best(&|| hint::black_box(strs.iter().map(|token| token.to_string()).collect::<Vec<_>>()).len());
    assert!(open < copy, "opening took {open:?}, a copy of all strings {copy:?}");
}

#[test]
fn a_file_in_memory_repeats_its_pattern() {
    let pattern: Vec<u8> = (0..36).collect(); // two blocks
    let make = |pattern| Writer::new().repeating_tensor("a", &[96, 2], Type::Q4_0, pattern);
    let writer = make(&pattern).metadata("general.architecture", "llama");
    let gguf = Gguf::in_memory("made up", &writer).expect("is sound");
    assert_eq!(gguf.bytes(), writer.bytes().expect("is sound") as u64);
    let data = gguf.data(gguf.require("a").expect("is there"));
    assert_eq!(data, pattern.repeat(3)); // 2 rows of 3 blocks
    for wrong in [&pattern[..0], &pattern[..19]] {
        assert_eq!(make(wrong).bytes().expect_err("no whole blocks").kind(), ErrorKind::Input);
    }
}

/// Bytes of a file's map that are in this program's memory now, if the system tells.
fn resident(path: &Path) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/smaps").ok()?;
    let name = path.to_str()?;
    let mut of_map = maps.lines().skip_while(|line| !line.ends_with(name));
    let rss = of_map.find_map(|line| line.strip_prefix("Rss:"))?;
    rss.trim().trim_end_matches(" kB").parse().ok().map(|kib: u64| kib << 10)
}

#[test]
fn released_bytes_leave_the_memory_and_come_back() {
    const N: usize = 2 << 20;
    let numbers: Vec<u8> = (0..4 * N).map(|i| (i * 31 + i / 251) as u8).collect();
    let writer = Writer::new().tensor("a", &[N as u64], Type::F32, numbers.clone());
    let data = |gguf: &Gguf| gguf.data(&gguf.tensors()[0]) == numbers;

    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), write(&writer)).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    assert!(data(&gguf));
    let before = resident(file.path());
    gguf.release(&numbers); // of no file
    gguf.release(gguf.data(&gguf.tensors()[0]));
    match (before, resident(file.path())) {
        (Some(before), Some(after)) => {
            assert!(before >= 4 * N as u64 && after < 1 << 20, "{before}, {after}")
        }
        _ => println!("skipped: this system does not tell what is in memory"),
    }
    assert!(data(&gguf));

    // what lies in no file would be lost
    let own = Gguf::in_memory("memory", &writer).unwrap();
    let copy = Gguf::open_with(file.path(), Residency { copy: true, lock: false }).unwrap();
    for gguf in [own, copy] {
        gguf.release(gguf.data(&gguf.tensors()[0]));
        assert!(data(&gguf));
    }
}

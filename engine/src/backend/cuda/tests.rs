//! What is asked of a device, by one that does nothing but write it down.

mod failures;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use braise_kernels::cuda::ops::WEIGHT_PADDING;
use braise_kernels::cuda::{
    Address, Device, Error as DeviceError, Graph, HostBuffer, Kernel, Launch, Memory, Piece, Properties,
    Transfer,
};
use braise_kernels::isa::Isa;

use super::sequence::count;
use crate::block::Spec;
use crate::device::{GpuLayers, Placement, place_on};
use crate::error::{ErrorKind, Result};
use crate::kv::{KvTypes, Room as Sizes};
use crate::measure::{self, GpuPeaks, Mix, Peaks, Shape, Test, synthetic};
use crate::model::Model;
use crate::parts::Part;
use crate::plan::{Outline, Request};
use crate::sequences::{self, Capacity, Planned, SequenceId, Sequences, Work};
use crate::session::{Logits, Session, SessionOptions};

/// What was asked for since it was last looked at, and what will go wrong.
#[derive(Debug, Default)]
struct Log {
    prepared: Vec<&'static str>,
    launches: Vec<&'static str>,
    captured: Vec<&'static str>,
    replays: usize,
    allocations: usize,
    uploaded: usize,
    downloaded: usize,
    /// Bytes that are allocated now, and by whom each.
    taken: usize,
    held: Vec<(u64, usize)>,
    /// Bytes that there are.
    total: usize,
    /// Launches after which the device is lost.
    lost_after: Option<usize>,
    /// A call that fails once, after so many others of its kind, and how.
    fails: Option<(Call, usize, DeviceError)>,
    /// Graphs that there are, and how many there were.
    graphs: Vec<Graph>,
    captures: usize,
    /// What copies read that were begun, and how many there were.
    copies: Vec<(u64, HeldBuffer)>,
    begun: u64,
}

/// What may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Reserve,
    Allocate,
    HostBuffer,
    Send,
    Reclaim,
    Upload,
    Clear,
    Prepare,
    Launch,
    Replay,
    Download,
}

/// A buffer of a copy, and how many bytes of it go to the device.
struct HeldBuffer(HostBuffer, usize);

impl std::fmt::Debug for HeldBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.1, self.0.len())
    }
}

#[derive(Clone)]
pub(super) struct Fake {
    log: Arc<Mutex<Log>>,
    properties: Properties,
    capturing: bool,
}

impl Fake {
    fn new(total: usize) -> Fake {
        let properties = Properties {
            name: "fake".to_owned(),
            compute: (8, 0),
            warpgroups: false,
            multiprocessors: 8,
            shared_bytes: 100 << 10,
        };
        let log = Log { total, ..Log::default() };
        Fake { log: Arc::new(Mutex::new(log)), properties, capturing: false }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // a test that fails drops what it holds, which asks again
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was asked for so far.
    fn forget(&self) {
        let mut log = self.log();
        let (held, graphs) = (std::mem::take(&mut log.held), std::mem::take(&mut log.graphs));
        *log = Log {
            held,
            graphs,
            captures: log.captures,
            taken: log.taken,
            total: log.total,
            ..Log::default()
        };
    }

    /// Lets a call fail once, after so many others of its kind.
    fn fail(&self, call: Call, after: usize, e: DeviceError) {
        self.log().fails = Some((call, after, e));
    }

    fn answer(&self, call: Call) -> std::result::Result<(), DeviceError> {
        self.alive()?;
        let mut log = self.log();
        match &mut log.fails {
            Some((fails, after, _)) if *fails == call && *after > 0 => *after -= 1,
            Some((fails, ..)) if *fails == call => {
                let (_, _, e) = log.fails.take().expect("is there");
                return Err(e);
            }
            _ => {}
        }
        Ok(())
    }

    fn room(&self, bytes: usize) -> std::result::Result<(), DeviceError> {
        let log = self.log();
        let (free, total) = (log.total - log.taken, log.total);
        if bytes > free { Err(DeviceError::OutOfMemory { asked: bytes, free, total }) } else { Ok(()) }
    }

    fn alive(&self) -> std::result::Result<(), DeviceError> {
        match self.log().lost_after {
            Some(0) => Err(DeviceError::Lost("it fell off the bus".to_owned())),
            _ => Ok(()),
        }
    }
}

impl Device for Fake {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> std::result::Result<Memory, DeviceError> {
        let log = self.log();
        Ok(Memory { free: log.total - log.taken, total: log.total })
    }

    fn allocate(&mut self, bytes: usize) -> std::result::Result<Address, DeviceError> {
        self.answer(Call::Allocate)?;
        let bytes = bytes.next_multiple_of(256);
        self.room(bytes)?;
        let mut log = self.log();
        log.allocations += 1;
        log.taken += bytes;
        let at = log.held.last().map_or(256, |(at, len)| (at + *len as u64).next_multiple_of(256));
        log.held.push((at, bytes));
        Ok(Address(at))
    }

    fn free(&mut self, address: Address) -> std::result::Result<(), DeviceError> {
        let mut log = self.log();
        let at = log.held.iter().position(|(at, _)| *at == address.0).expect("it was allocated");
        let (_, bytes) = log.held.remove(at);
        log.taken -= bytes;
        Ok(())
    }

    fn reserve(&mut self, bytes: usize) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Reserve)?;
        self.room(bytes)
    }

    fn host_buffer(&mut self, bytes: usize) -> std::result::Result<HostBuffer, DeviceError> {
        self.answer(Call::HostBuffer)?;
        Ok(Box::new(vec![0; bytes]))
    }

    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> std::result::Result<Transfer, DeviceError> {
        self.answer(Call::Send)?;
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        let mut log = self.log();
        log.begun += 1;
        let number = log.begun;
        log.copies.push((number, HeldBuffer(buffer, bytes)));
        Ok(Transfer::Running(number))
    }

    fn reclaim(&mut self, transfer: Transfer) -> std::result::Result<HostBuffer, DeviceError> {
        // a copy that went wrong has ended too
        let answer = self.answer(Call::Reclaim);
        let Transfer::Running(number) = transfer else { panic!("nothing is copied at once") };
        let mut log = self.log();
        let at = log.copies.iter().position(|(of, _)| *of == number).expect("was begun");
        let (_, HeldBuffer(buffer, bytes)) = log.copies.remove(at);
        log.uploaded += bytes;
        answer.map(|()| buffer)
    }

    fn upload(&mut self, _: Address, bytes: &[u8]) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Upload)?;
        self.log().uploaded += bytes.len();
        Ok(())
    }

    fn download(&mut self, _: Address, bytes: &mut [u8]) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Download)?;
        self.log().downloaded += bytes.len();
        bytes.fill(0x40); // a number, as float and as key
        Ok(())
    }

    fn clear(&mut self, _: Address, _: usize) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Clear)
    }

    fn prepare(&mut self, kernel: &'static Kernel) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Prepare)?;
        self.log().prepared.push(kernel.name);
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Launch)?;
        let mut log = self.log();
        match self.capturing {
            true => log.captured.push(launch.kernel.name),
            false => log.launches.push(launch.kernel.name),
        }
        log.lost_after = log.lost_after.map(|left| left - 1);
        Ok(())
    }

    fn begin_capture(&mut self) -> std::result::Result<(), DeviceError> {
        assert!(!self.capturing);
        self.capturing = true;
        Ok(())
    }

    fn end_capture(&mut self) -> std::result::Result<Graph, DeviceError> {
        assert!(self.capturing);
        self.capturing = false;
        let mut log = self.log();
        log.captures += 1;
        let graph = Graph::new(log.captures);
        log.graphs.push(graph);
        Ok(graph)
    }

    fn replay(&mut self, graph: Graph) -> std::result::Result<(), DeviceError> {
        self.answer(Call::Replay)?;
        let mut log = self.log();
        assert!(log.graphs.contains(&graph), "{graph:?} is not there");
        log.replays += 1;
        Ok(())
    }

    fn destroy(&mut self, graph: Graph) -> std::result::Result<(), DeviceError> {
        let mut log = self.log();
        let at = log.graphs.iter().position(|of| *of == graph).expect("it was captured");
        log.graphs.remove(at);
        Ok(())
    }

    fn synchronize(&mut self) -> std::result::Result<(), DeviceError> {
        self.alive()
    }
}

fn model() -> Model {
    let gguf = synthetic("fake.gguf", &Shape::TINY, Mix::by_name("Q8_0").expect("is known"));
    Model::new(gguf.expect("is made"), Isa::best()).expect("is a model")
}

fn options() -> SessionOptions {
    SessionOptions { n_ctx: Some(300), chunk: Some(64), ..SessionOptions::default() }
}

/// What a session takes, and the bytes of that for the blocks of `spec`.
fn room(model: &Model) -> Sizes {
    sequences::room(model, Capacity::ONE, &options()).expect("are numbers")
}

fn of_session(model: &Model, spec: &Spec, properties: &Properties) -> usize {
    let (cache, buffers) = count(spec, room(model), options().kv, properties).expect("are numbers");
    cache + buffers
}

fn read(session: &mut Session<'_>, tokens: &[u32]) -> Result<()> {
    session.eval_best(tokens, Logits::Last, 1, &mut |_, _| ControlFlow::Continue(()))
}

/// Without the formats and numbers of columns in their names.
fn kinds(launches: &[&'static str]) -> Vec<&'static str> {
    let kind = |name: &&'static str| match name.split_once('_') {
        Some((kind @ ("qkv" | "matvec" | "matmul" | "attention" | "flash" | "rows"), _)) => kind,
        _ => name,
    };
    launches.iter().map(kind).collect()
}

#[test]
fn a_step_of_one_token_is_captured_and_replayed() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let n_layer = model.spec().layers.len();
    let mut session = Session::new(&model, &options()).expect("there is room");
    fake.forget();
    read(&mut session, &[1]).expect("is read");
    let layer = ["qkv", "attention", "matvec", "matvec", "matvec"];
    let mut step = vec!["rows", "rotations", "norm_rows"];
    (0..n_layer).for_each(|_| step.extend(layer));
    step.extend(["matvec", "argmax"]);
    assert_eq!(kinds(&fake.log().launches), step);
    fake.forget();
    read(&mut session, &[2]).expect("is read");
    {
        let log = fake.log();
        assert_eq!((kinds(&log.captured), log.launches.len(), log.replays), (step, 0, 1));
    }
    for token in 3..9 {
        fake.forget();
        read(&mut session, &[token]).expect("is read");
        let log = fake.log();
        assert_eq!((log.replays, log.launches.len(), log.captured.len()), (1, 0, 0));
        // a token, its position, its sequence, where the run begins and ends, and whose logits are wanted; the best logit of
        // each block
        assert_eq!((log.allocations, log.uploaded, log.downloaded), (0, 24, 512));
    }
    // another number of tokens is another graph
    fake.forget();
    read(&mut session, &[1, 2]).expect("is read");
    let log = fake.log();
    assert_eq!(
        (log.replays, log.launches.len()),
        (0, 3 + 8 * n_layer + 4),
        "several tokens share the weights, and the last one's logits are asked for"
    );
}

/// A step of all sequences, of so many tokens each; the bytes that it uploads and downloads.
fn step(all: &mut Sequences<'_>, ids: &[SequenceId], tokens: &[u32], fake: &Fake) -> Result<(usize, usize)> {
    fake.forget();
    let work = |id: &SequenceId| Work { sequence: *id, tokens, logits: Logits::Last };
    let work: Vec<_> = ids.iter().map(work).collect();
    all.step_best(&work, 1, &mut |_| ControlFlow::Continue(()))?;
    let log = fake.log();
    Ok((log.uploaded, log.downloaded))
}

#[test]
fn a_token_of_each_sequence_is_captured_and_replayed() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let capacity = Capacity { sequences: 10, tokens: None };
    let mut all = Sequences::new(&model, capacity, &options()).expect("there is room");
    let ids: Vec<_> = (0..10).map(|_| all.add().expect("there is room")).collect();
    for n in [3, 10] {
        let log = |all: &mut Sequences<'_>, tokens: &[u32]| {
            let bytes = step(all, &ids[..n], tokens, &fake).expect("is read");
            let log = fake.log();
            (log.launches.is_empty(), log.captured.is_empty(), log.replays, bytes)
        };
        // three numbers of each token, the starts of the runs, and whose logits are wanted; the best of each block
        let bytes = (4 * (3 * n + n + 1 + n), 512 * n);
        let launched = log(&mut all, &[1]);
        assert_eq!((launched.0, launched.1, launched.2), (false, true, 0));
        assert_eq!(log(&mut all, &[2]), (true, false, 1, bytes));
        assert_eq!(log(&mut all, &[3]), (true, true, 1, bytes));
        assert_eq!(log(&mut all, &[1, 2]).2, 0, "other shapes are launched");
        assert_eq!(log(&mut all, &[4]), (true, true, 1, bytes));
    }
    // a sequence that needs another page says which
    let id = &ids[9..];
    for _ in 0..31 {
        step(&mut all, id, &[1; 8], &fake).expect("is read");
    }
    assert_eq!(all.tokens(id[0]).expect("is there").len(), 6 + 248);
    let pages: Vec<_> = (0..4).map(|_| step(&mut all, id, &[1], &fake).expect("is read").0 - 24).collect();
    assert_eq!(pages, [0, 0, 4 * size_of::<u32>(), 0]);
}

#[test]
fn a_step_that_fails_leaves_the_tokens_to_be_read_again() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let capacity = Capacity { sequences: 3, tokens: Some(512) };
    let mut all = Sequences::new(&model, capacity, &options()).expect("there is room");
    let ids: Vec<_> = (0..2).map(|_| all.add().expect("there is room")).collect();
    step(&mut all, &ids, &[1, 2, 3], &fake).expect("is read");
    let odd = || DeviceError::Operands("it is odd".to_owned());
    for after in [0, 7] {
        fake.forget();
        fake.fail(Call::Launch, after, odd());
        let tokens = [9, 8];
        let work = ids.iter().map(|id| Work { sequence: *id, tokens: &tokens, logits: Logits::Last });
        let work: Vec<_> = work.collect();
        let error = all.step(&work, &mut |_| panic!("nothing is computed")).expect_err("a launch fails");
        assert_eq!(error.kind(), ErrorKind::Device);
        fake.fail(Call::Launch, after, odd());
        assert!(all.settle(ids[0]).is_err() && all.fork(ids[1], 3).is_ok_and(|id| all.remove(id).is_ok()));
        for id in &ids {
            assert_eq!(all.tokens(*id).expect("is there"), [1, 2, 3]);
        }
        assert_eq!(all.free_tokens(), 512, "nothing is known of what was read");
    }
    // both read three tokens again, and then one
    step(&mut all, &ids, &[4], &fake).expect("it works again");
    let log = fake.log();
    let rotations = log.launches.iter().chain(&log.captured).filter(|name| **name == "rotations").count();
    assert_eq!(rotations, 3);
    drop(log);
    for id in &ids {
        assert_eq!(all.tokens(*id).expect("is there"), [1, 2, 3, 4]);
    }
}

#[test]
fn many_tokens_go_through_tensor_cores_where_there_are_some() {
    for (compute, product) in [((8, 0), "matmul"), ((7, 5), "matvec")] {
        let mut fake = Fake::new(1 << 30);
        fake.properties.compute = compute;
        let mut model = model();
        model.move_to(Box::new(fake.clone())).expect("there is room");
        let mut session = Session::new(&model, &options()).expect("there is room");
        fake.forget();
        read(&mut session, &[1; 40]).expect("is read");
        let log = fake.log();
        let launches = kinds(&log.launches);
        assert_eq!(super::slow(model.spec(), &fake.properties).is_some(), product == "matvec");
        let products = launches.iter().filter(|kind| **kind == product).count();
        assert!(products >= 6 * model.spec().layers.len(), "{compute:?}: {launches:?}");
        let matmuls = launches.contains(&"matmul");
        assert_eq!(matmuls, product == "matmul", "{launches:?}");
    }
}

#[test]
fn products_of_warpgroups_are_used_unless_they_cannot_be_relied_on() {
    for fails in [false, true] {
        let mut fake = Fake::new(1 << 30);
        fake.properties.compute = Properties::WARPGROUPS;
        fake.properties.warpgroups = true;
        if fails {
            let message = "not for this GPU".to_owned();
            let e = DeviceError::Load { module: "matmul_wgmma", message, log: String::new() };
            fake.fail(Call::Launch, 1, e);
        }
        let mut model = model();
        model.move_to(Box::new(fake.clone())).expect("there is room");
        let [slow] = &super::slow_on_devices(&model)[..] else { panic!("one device") };
        assert_eq!(slow.as_ref().is_some_and(|slow| slow.contains("older GPUs")), fails, "{slow:?}");
        let mut session = Session::new(&model, &options()).expect("there is room");
        fake.forget();
        read(&mut session, &[1; 40]).expect("is read");
        let log = fake.log();
        let (wgmma, other): (Vec<&str>, Vec<&str>) = (log.launches.iter())
            .filter(|name| name.starts_with("matmul_"))
            .partition(|name| name.starts_with("matmul_wgmma_"));
        assert_eq!((wgmma.is_empty(), other.is_empty()), (fails, !fails), "{wgmma:?}, {other:?}");
    }
}

#[test]
fn weights_are_copied_once_and_shared_by_sessions() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    let bytes = super::weight_bytes(&model, Part::all(model.layers.len())).expect("is a number");
    assert_eq!(model.move_to(Box::new(fake.clone())).expect("there is room"), bytes);
    let tensors: usize = model.gguf().tensors().iter().map(|tensor| tensor.n_bytes()).sum();
    let padded = tensors + WEIGHT_PADDING * model.gguf().tensors().len();
    assert!(fake.log().uploaded <= padded && fake.log().uploaded > tensors * 9 / 10);
    let taken = fake.log().taken;
    let of_session = of_session(&model, model.spec(), &fake.properties);
    for _ in 0..2 {
        fake.forget();
        let session = Session::new(&model, &options()).expect("there is room");
        assert_eq!(session.cache_bytes(), of_session as u64);
        // tables of pages and angles, no weights
        assert!(fake.log().uploaded < 4096, "{}", fake.log().uploaded);
        assert_eq!(fake.log().taken - taken, of_session);
        drop(session);
        assert_eq!(fake.log().taken, taken, "a session gives back what it took");
    }
}

/// What is planned by parts is what is taken as a whole, and enough for some of them.
#[test]
fn parts_need_what_the_whole_takes() {
    for mix in ["Q8_0", "Q4_K_M"] {
        let gguf = synthetic("fake.gguf", &Shape::TINY, Mix::by_name(mix).expect("is known"));
        let model = Model::new(gguf.expect("is made"), Isa::best()).expect("is a model");
        let properties = Fake::new(0).properties;
        let (needs, fixed) =
            super::needs(&model, room(&model), options().kv, &properties).expect("are numbers");
        let taken = |has: &dyn Fn(Part) -> bool| {
            let parts = Part::all(model.layers.len()).filter(|part| has(*part));
            let weights = super::weight_bytes(&model, parts).expect("a number");
            let spec = model.spec().only(has);
            weights + of_session(&model, &spec, &properties)
        };
        assert_eq!(needs.bytes() + fixed, taken(&|_| true), "{mix}");
        for first in 0..=model.layers.len() {
            let here = |part: Part| part >= Part::Mixer(first);
            let parts = Part::all(model.layers.len()).zip(&needs.parts);
            let planned: usize = parts.filter(|(part, _)| here(*part)).map(|(_, needs)| needs.bytes).sum();
            let taken = taken(&here);
            assert!(taken <= planned + fixed && taken + fixed > planned, "{mix}: {first}");
        }
    }
}

#[test]
fn a_benchmark_tells_what_the_device_took_and_can_do() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    assert!(GpuPeaks::of_model(&model).expect("nothing is asked").is_empty());
    let weights = model.move_to(Box::new(fake.clone())).expect("there is room");
    let test = Test { n_prompt: 8, n_gen: 4, n_depth: 2, n_parallel: 3 };
    let runs = measure::run(&model, &test, 0, KvTypes::default(), 2).expect("runs");
    assert_eq!(runs.samples.len(), 2);
    let taken = runs.device_bytes.expect("is known") as usize;
    let Planned { machine: None, gpus } = runs.plan else { panic!("a plan of the machine") };
    let [plan] = gpus[..] else { panic!("{gpus:?}") };
    assert_eq!(plan.weights as usize, weights);
    assert_eq!(taken as u64, plan.total() - plan.driver, "{plan:?}");
    assert!(fake.log().replays > 0 && fake.log().taken <= weights, "the cache was given back");
    let [peaks] = GpuPeaks::of_model(&model).expect("is measured")[..] else { panic!("one device") };
    let limits = Peaks::from(peaks);
    assert!(limits.read == peaks.copy && Some(limits.int8) == peaks.bf16 && limits.f32 == limits.int8);
    assert_eq!(Peaks::from(GpuPeaks { bf16: None, ..peaks }).f32, f64::INFINITY);
}

/// What a session takes of a GPU besides weights and cache, of a model with 8 billion parameters: with what a driver takes
/// for kernels and graphs (see [`crate::plan::DevicePlan`]) it has to be within the bound. What the plan estimates is near that.
#[test]
fn a_session_takes_little_besides_its_cache() {
    let outline = Outline::of_shape(&Shape::LLAMA_8B, Mix::by_name("Q4_K_M").expect("is known"), Isa::best());
    let outline = outline.expect("is a shape");
    for (compute, multiprocessors) in [((8, 9), 128), ((9, 0), 132), ((7, 5), 40)] {
        let properties = Properties { compute, multiprocessors, ..Fake::new(0).properties };
        for n_ctx in [8192, 131_072] {
            let kv = KvTypes::default();
            let request = Request { n_ctx, n_seq: 1, tokens: None, chunk: None, kv, threads: 1 };
            let plan = outline.on_device(&request, &properties).expect("is a number");
            println!("{compute:?}, {n_ctx}: {plan:?}");
            assert!(plan.is_lean() && plan.activations > 0, "{plan:?} at {n_ctx}");
        }
    }
}

#[test]
fn too_little_memory_is_an_error_that_says_what_to_do() {
    let mut model = model();
    let bytes = super::weight_bytes(&model, Part::all(model.layers.len())).expect("is a number");
    let error = model.move_to(Box::new(Fake::new(bytes / 2))).expect_err("half the weights");
    assert_eq!(error.kind(), ErrorKind::Device);
    let text = error.to_string();
    for part in ["fake.gguf: ", "out of GPU memory", "smaller context"] {
        assert!(text.contains(part), "{text}");
    }
    // the model runs where it ran before
    let mut session = Session::new(&model, &options()).expect("a session on the CPU");
    read(&mut session, &[1]).expect("is read");
    drop(session);

    let fake = Fake::new(bytes + 10_000);
    model.move_to(Box::new(fake.clone())).expect("the weights alone");
    let taken = fake.log().taken;
    let error = Session::new(&model, &options()).expect_err("no room for a cache");
    assert!(error.kind() == ErrorKind::Device && error.to_string().contains("fake.gguf"), "{error}");
    assert_eq!(fake.log().taken, taken, "what was taken before it failed is given back");
}

#[test]
fn a_lost_device_is_an_error_wherever_it_is_lost() {
    for lost_after in [0, 1, 5, 11, 20] {
        let fake = Fake::new(1 << 30);
        let mut model = model();
        model.move_to(Box::new(fake.clone())).expect("there is room");
        let mut session = Session::new(&model, &options()).expect("there is room");
        fake.log().lost_after = Some(lost_after);
        // the passes before may have worked, launched or captured
        let results: Vec<_> = (0..4).map(|token| read(&mut session, &[token])).collect();
        let error = results.into_iter().find_map(Result::err).expect("the device is lost");
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().contains("the GPU was lost: it fell off the bus; start again"), "{error}");
        assert!(read(&mut session, &[1]).is_err() && Session::new(&model, &options()).is_err());
    }
}

#[test]
fn a_model_stays_on_the_cpu_where_no_gpu_has_room() {
    let place = |model: &mut Model, devices: Vec<std::result::Result<Fake, DeviceError>>| {
        let boxed = |fake: Fake| Box::new(fake) as Box<dyn Device + Send>;
        let devices = devices.into_iter().map(|device| device.map(boxed)).enumerate();
        place_on(model, devices.collect(), GpuLayers::Auto, Capacity::ONE, &options()).expect("a place")
    };
    let small = || Ok(Fake::new(300 << 20));
    let no = DeviceError::Unsupported {
        name: "old".to_owned(),
        major: 6,
        minor: 1,
        needed: "braise",
        least: (7, 5),
    };
    let mut model = model();
    let nothing = Placement::Cpu { because: Some("there is no GPU".into()), beside_gpu: false };
    assert_eq!(place(&mut model, vec![]), nothing);
    let Placement::Cpu { because: Some(because), beside_gpu: true } =
        place(&mut model, vec![Err(no.clone())])
    else {
        panic!("too old a GPU")
    };
    assert!(because.contains("compute capability 6.1"), "{because}");
    let tiny = || Ok(Fake::new(1 << 20));
    let Placement::Cpu { because: Some(because), beside_gpu: true } = place(&mut model, vec![tiny()]) else {
        panic!("too small a GPU")
    };
    assert!(because.contains("fake has 0.00 GB free"), "{because}");
    assert!(model.on_device.is_none());
    match place(&mut model, vec![Err(no), tiny(), small()]) {
        Placement::Gpu { index: 2, name, weight_bytes, slow: None } => {
            assert!(name == "fake" && weight_bytes > 0)
        }
        other => panic!("{other:?}"),
    }
    assert!(model.on_device.is_some());
}

/// On a GPU with room for some layers alone: those are there, the others on the CPU, and the report says so.
#[test]
fn what_does_not_fit_stays_on_the_cpu() {
    let place = |total: usize, layers: GpuLayers| {
        let (mut model, fake) = (model(), Fake::new((256 << 20) + total));
        let device = Ok(Box::new(fake.clone()) as Box<dyn Device + Send>);
        let placement = place_on(&mut model, vec![(3, device)], layers, Capacity::ONE, &options());
        (placement.map(|placement| (placement, model)), fake)
    };
    let whole = model();
    let needs = super::needs(&whole, room(&whole), options().kv, &Fake::new(0).properties);
    let (needs, fixed) = needs.expect("are numbers");
    let (n, last) = (needs.parts.len(), needs.parts.len() / 2 - 2);
    let room = fixed + needs.parts[n - 3..].iter().map(|part| part.bytes).sum::<usize>();
    for (total, layers) in [(room, GpuLayers::Auto), (2 * room, GpuLayers::Last(2))] {
        let (placed, fake) = place(total, layers);
        let (Placement::Split(split), model) = placed.expect("is placed") else { panic!("it does not fit") };
        let text = split.to_string();
        let on_gpu = format!("; layer {last} and the output: cuda:3 fake");
        assert!(text.starts_with("the input") && text.ends_with(&on_gpu), "{text}");
        let why = if layers == GpuLayers::Auto { "fake has 0.27 GB free" } else { "--gpu-layers 2" };
        assert!(text.contains("CPU (") && text.contains(why), "{text}");
        let weights: usize = split.gpus.iter().map(|gpu| gpu.weight_bytes).sum();
        let session = Session::new(&model, &options()).expect("there is room");
        assert!(weights > 0 && weights < fake.log().taken && fake.log().taken <= total);
        assert!(session.threads() > 0 && session.plan().is_some() && session.finds_best());
    }
    let missing = needs.bytes() + fixed - room;
    let error = place(room, GpuLayers::All).0.expect_err("it does not fit").to_string();
    assert!(error.contains(&format!("--gpu-layers all: {missing} bytes are missing")), "{error}");
    let (placed, fake) = place(room, GpuLayers::Last(0));
    assert!(matches!(placed, Ok((Placement::Cpu { .. }, _))) && fake.log().taken == 0);
}

use std::cell::Cell;

use braise_kernels::cuda::{Graph, Launch, Memory, Properties};

use super::*;

type Answer<T> = std::result::Result<T, DeviceError>;

/// A device of some memory, which copies as late as it may, in any order, and loses what is asked of it at some point.
struct Late {
    memory: Vec<u8>,
    running: Vec<(u64, HostBuffer, Vec<Piece>)>,
    begun: u64,
    buffers: usize,
    random: fastrand::Rng,
    /// The calls until it is lost.
    lasts: usize,
    properties: Properties,
}

impl Late {
    fn new(bytes: usize, lasts: usize) -> Late {
        let properties = Properties {
            name: "late".to_owned(),
            compute: (8, 0),
            multiprocessors: 1,
            shared_bytes: 0,
            warpgroups: false,
        };
        let random = fastrand::Rng::with_seed(bytes as u64);
        Late {
            memory: vec![0xaa; bytes],
            running: Vec::new(),
            begun: 0,
            buffers: 0,
            random,
            lasts,
            properties,
        }
    }

    fn call(&mut self) -> Answer<()> {
        let left = self.lasts.checked_sub(1);
        self.lasts = left.ok_or_else(|| DeviceError::Lost("it went away".to_owned()))?;
        Ok(())
    }

    fn end(&mut self, at: usize) -> (u64, HostBuffer) {
        let (number, buffer, pieces) = self.running.swap_remove(at);
        for piece in pieces {
            let to = piece.to.0 as usize;
            self.memory[to..to + piece.bytes].copy_from_slice(piece.of(&buffer).expect("lies in the buffer"));
        }
        (number, buffer)
    }
}

impl Device for Late {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn host_buffer(&mut self, bytes: usize) -> Answer<HostBuffer> {
        self.call()?;
        self.buffers += 1;
        Ok(Box::new(vec![0x55; bytes]))
    }

    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> Answer<Transfer> {
        self.call()?;
        self.begun += 1;
        self.running.push((self.begun, buffer, pieces.to_vec()));
        assert!(self.running.len() <= self.buffers, "a buffer is copied from twice");
        Ok(Transfer::Running(self.begun))
    }

    /// Ends others first, as it likes; their buffers nobody gets before they are asked for.
    fn reclaim(&mut self, transfer: Transfer) -> Answer<HostBuffer> {
        let Transfer::Running(wanted) = transfer else { panic!("nothing is copied at once") };
        let answer = self.call();
        while self.random.bool() {
            let at = self.random.usize(..self.running.len());
            let (_, _, pieces) = &self.running[at];
            let pieces = pieces.clone();
            let (number, buffer) = self.end(at);
            self.running.push((number, buffer, Vec::new()));
            assert!(pieces.iter().all(|piece| piece.bytes > 0));
        }
        let at = self.running.iter().position(|(number, ..)| *number == wanted).expect("was begun");
        let (_, buffer) = self.end(at);
        answer.map(|()| buffer)
    }

    fn memory(&mut self) -> Answer<Memory> {
        unreachable!()
    }
    fn allocate(&mut self, _: usize) -> Answer<Address> {
        unreachable!()
    }
    fn free(&mut self, _: Address) -> Answer<()> {
        unreachable!()
    }
    fn upload(&mut self, _: Address, _: &[u8]) -> Answer<()> {
        unreachable!()
    }
    fn download(&mut self, _: Address, _: &mut [u8]) -> Answer<()> {
        unreachable!()
    }
    fn clear(&mut self, _: Address, _: usize) -> Answer<()> {
        unreachable!()
    }
    fn launch(&mut self, _: &Launch) -> Answer<()> {
        unreachable!()
    }
    fn begin_capture(&mut self) -> Answer<()> {
        unreachable!()
    }
    fn end_capture(&mut self) -> Answer<Graph> {
        unreachable!()
    }
    fn replay(&mut self, _: Graph) -> Answer<()> {
        unreachable!()
    }
    fn destroy(&mut self, _: Graph) -> Answer<()> {
        unreachable!()
    }
    fn synchronize(&mut self) -> Answer<()> {
        unreachable!()
    }
}

/// Uploads of these sizes with random numbers, each at a place with a gap before it; and what the memory has to hold then.
fn uploads(sizes: &[usize], random: &mut fastrand::Rng) -> (Vec<Upload<'static>>, Vec<u8>) {
    let mut memory = Vec::new();
    let mut uploads = Vec::new();
    for (i, size) in sizes.iter().enumerate() {
        memory.resize(memory.len() + 1 + i % 7, 0xaa);
        let mut bytes = vec![0; *size];
        random.fill(&mut bytes);
        let padding = 16 * (i % 2);
        let to = Address(memory.len() as u64);
        memory.extend(&bytes);
        memory.resize(memory.len() + padding, 0);
        uploads.push(Upload { bytes: bytes.into(), padding, to });
    }
    memory.push(0xaa);
    random.shuffle(&mut uploads);
    (uploads, memory)
}

fn go_on(_: Loading) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn all_bytes_arrive_whatever_their_number() {
    let mut random = fastrand::Rng::with_seed(7);
    let many: Vec<usize> = (0..300).map(|_| random.usize(1..2000)).collect();
    let cases: [(&[usize], usize); 8] = [
        (&[], 1 << 20),
        (&[1], 1 << 20),
        (&[1], 1),
        (&[4096, 4096, 4096], 4096),
        (&[4095, 4097, 1, 8191], 4096),
        (&[100_001], 1000),
        (&[3, 0, 5, 70_000, 1, 1, 1, 255, 256, 257], 4096),
        (&many, 3000),
    ];
    for (sizes, buffer) in cases {
        let (uploads, want) = uploads(sizes, &mut random);
        let mut device = Late::new(want.len(), usize::MAX);
        let (last, calls) = (Cell::new(0), Cell::new(0));
        let total: usize = uploads.iter().map(Upload::len).sum();
        let watch = |loading: Loading| {
            assert!(
                loading.total == total as u64 && loading.done > last.replace(loading.done),
                "{loading:?}"
            );
            calls.set(calls.get() + 1);
            ControlFlow::Continue(())
        };
        assert_eq!(copy(&mut device, &uploads, buffer, &watch), Ok(()));
        assert!(device.memory == want, "{sizes:?} by {buffer}");
        assert_eq!((last.get(), calls.get()), (total as u64, device.begun));
        assert!(device.buffers <= BUFFERS && device.running.is_empty());
        let buffers = plan(&uploads, buffer).len() as u64;
        assert!(device.begun <= buffers, "{} of {buffers} copies", device.begun);
    }
}

#[test]
fn small_uploads_share_a_buffer_and_large_ones_take_several() {
    let upload = |bytes: usize, to| Upload { bytes: vec![0; bytes].into(), padding: 0, to: Address(to) };
    let cut = |upload, from, (at, bytes, to)| Cut {
        upload,
        from,
        piece: Piece { from: at, bytes, to: Address(to) },
    };
    let uploads = [upload(10, 1000), upload(300, 2000), upload(1100, 4000), upload(1, 9000)];
    let want = [
        vec![cut(0, 0, (0, 10, 1000)), cut(1, 0, (256, 300, 2000)), cut(2, 0, (768, 232, 4000))],
        vec![cut(2, 232, (0, 868, 4232))],
        vec![cut(3, 0, (0, 1, 9000))],
    ];
    assert_eq!(plan(&uploads, 1000), want);
}

/// Wherever the device fails: nothing hangs, the error is its own, and nothing is copied any more.
#[test]
fn a_device_that_fails_ends_it() {
    let mut random = fastrand::Rng::with_seed(9);
    let (uploads, want) = uploads(&[5000; 20], &mut random);
    let mut calls = 0;
    loop {
        let mut device = Late::new(want.len(), calls);
        let copied = copy(&mut device, &uploads, 4096, &go_on);
        assert!(device.running.is_empty(), "after {calls} calls");
        if copied.is_ok() {
            assert!(device.memory == want);
            break;
        }
        assert_eq!(copied, Err(Stop::Device(DeviceError::Lost("it went away".to_owned()))));
        calls += 1;
    }
    // four buffers; each of the buffers was sent and came back
    assert_eq!(calls, BUFFERS + 2 * plan(&uploads, 4096).len());
}

#[test]
fn who_watches_may_end_it() {
    let mut random = fastrand::Rng::with_seed(11);
    let (uploads, want) = uploads(&[5000; 20], &mut random);
    let mut device = Late::new(want.len(), usize::MAX);
    let told = Cell::new(0);
    let watch = |_| {
        told.set(told.get() + 1);
        if told.get() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(copy(&mut device, &uploads, 4096, &watch), Err(Stop::Asked));
    assert!(device.running.is_empty() && told.get() == 3);
    assert!(device.begun < plan(&uploads, 4096).len() as u64, "the rest was not begun");
}

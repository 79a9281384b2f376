//! The interpreter of PTX on products of warpgroups: their results in all layouts of shared memory, and each way to get them
//! wrong, provoked once. The layouts and the rules are written here a second time, from the PTX ISA.

use braise_tests::ptx::{Fault, Machine, Module, Trap};
use half::bf16;

/// What a kernel does, piece by piece.
const COPY: &str = "copy";
const SHOW: &str = "fence.proxy.async;";
const MEET: &str = "bar.sync 0;";
const FENCE: &str = "wgmma.fence.sync.aligned;";
const PRODUCT: &str = "product";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const STORE: &str = "store";

/// A kernel that does all right.
const RIGHT: [&str; 8] = [COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE];

/// Bytes of shared memory, which the host says.
const ROOM: usize = 16 << 10;

/// How a factor lies in shared memory: bytes of a row, as swizzling modes have them, and where rows begin.
#[derive(Clone, Copy)]
struct Layout {
    row: usize,
    start: usize,
    /// From the first eight of 16 values to the others, where rows have 16 bytes.
    leading: usize,
    stride: usize,
}

impl Layout {
    /// The address of value k of a row.
    fn at(&self, row: usize, k: usize) -> usize {
        let along = if self.row == 16 { k / 8 * self.leading } else { k / 8 * 16 };
        let linear = self.start + row / 8 * self.stride + row % 8 * self.row + along + k % 8 * 2;
        let pattern = match self.row {
            128 => 7,
            64 => 3,
            32 => 1,
            _ => 0,
        };
        linear ^ (((linear / 128) & pattern) * 16)
    }

    /// Its descriptor, relative to the start of shared memory.
    fn bits(&self) -> u64 {
        let mode = match self.row {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        let field = |bytes: usize, at: u32| (bytes as u64 >> 4) << at;
        field(self.start, 0) | field(self.leading, 16) | field(self.stride, 32) | mode << 62
    }
}

/// Two factors in rows of 128 bytes.
const A: Layout = Layout { row: 128, start: 0, leading: 16, stride: 1024 };
const B: Layout = Layout { row: 128, start: 8192, leading: 16, stride: 1024 };

/// The kernel of these pieces; what is no piece is an instruction.
fn text(pieces: &[&str], columns: usize, scales: &str) -> String {
    let sums: Vec<String> = (0..columns / 2).map(|i| format!("%f{i}")).collect();
    let mut body = String::new();
    for piece in pieces {
        match *piece {
            COPY => (0..ROOM / 2048).for_each(|i| {
                let at = 2048 * i;
                body += &format!(
                    "ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd1+{at}];\n\
                     st.shared.v4.b32 [%r3+{at}], {{%r4, %r5, %r6, %r7}};\n"
                );
            }),
            PRODUCT => {
                body += &format!(
                    "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{}}}, %rd3, %rd4, {scales};\n",
                    sums.join(", ")
                );
            }
            STORE => {
                (0..sums.len()).for_each(|i| body += &format!("st.global.f32 [%rd6+{}], %f{i};\n", 4 * i))
            }
            other => body += &format!("{other}\n"),
        }
    }
    let ones: String = sums.iter().map(|sum| format!("mov.f32 {sum}, 0f3F800000;\n")).collect();
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry f(.param .u64 f_in, .param .u64 f_out, .param .u64 f_a, .param .u64 f_b) {{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<16>;\n.reg .b64 %rd<9>;\n.reg .f32 %f<128>;\n\
         .shared .align 1024 .b8 room[{ROOM}];\n\
         mov.u32 %r1, %tid.x;\nmov.u32 %r2, room;\nshl.b32 %r3, %r1, 4;\nadd.s32 %r3, %r2, %r3;\n\
         ld.param.u64 %rd1, [f_in];\nmul.wide.u32 %rd2, %r1, 16;\nadd.s64 %rd1, %rd1, %rd2;\n\
         ld.param.u64 %rd3, [f_a];\nld.param.u64 %rd4, [f_b];\nshr.u32 %r8, %r2, 4;\ncvt.u64.u32 %rd5, %r8;\n\
         add.s64 %rd3, %rd3, %rd5;\nadd.s64 %rd4, %rd4, %rd5;\n\
         ld.param.u64 %rd6, [f_out];\nmul.wide.u32 %rd7, %r1, {};\nadd.s64 %rd6, %rd6, %rd7;\n\
         setp.ne.b32 %p1, 1, 0;\nsetp.ne.b32 %p2, 0, 0;\nsetp.lt.u32 %p3, %r1, 32;\n\
         {ones}{body}ret;\n}}",
        2 * columns
    )
}

/// What threads leave in their sums, of shared memory that holds `image`.
fn run(text: &str, image: &[u8], [a, b]: [u64; 2], threads: u32, columns: usize) -> Result<Vec<f32>, Trap> {
    let module = Module::parse(text).unwrap();
    let mut machine = Machine::new();
    let (from, to) = (machine.alloc_with(image), machine.alloc(threads as usize * 2 * columns));
    let params: Vec<u8> = [from, to, a, b].iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.launch(&module, "f", [1; 3], [threads, 1, 1], 0, &params)?;
    let bytes = machine.read(to, threads as usize * 2 * columns).unwrap();
    Ok(bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect())
}

/// A small integer, so that sums are exact: of a row and a column.
fn value(matrix: usize, row: usize, k: usize) -> f32 {
    ((row * 7 + k * 5 + matrix * 3 + row * k) % 17) as f32 - 8.0
}

/// Shared memory that holds 64 rows of a factor and `columns` of another one.
fn image(a: Layout, b: Layout, columns: usize) -> Vec<u8> {
    let mut image = vec![0x7f; ROOM];
    for (matrix, (layout, rows)) in [(a, 64), (b, columns)].into_iter().enumerate() {
        for (row, k) in (0..rows).flat_map(|row| (0..16).map(move |k| (row, k))) {
            let at = layout.at(row, k);
            image[at..at + 2].copy_from_slice(&bf16::from_f32(value(matrix, row, k)).to_le_bytes());
        }
    }
    image
}

/// That the kernel of these pieces computes `factor` times the product, plus `before`.
fn expect(
    pieces: &[&str],
    (a, b): (Layout, Layout),
    columns: usize,
    scales: &str,
    (factor, before): (f32, f32),
) {
    let text = text(pieces, columns, scales);
    let got = run(&text, &image(a, b, columns), [a.bits(), b.bits()], 128, columns);
    let got = got.unwrap_or_else(|e| panic!("{scales}, rows of {} and {} bytes: {e}", a.row, b.row));
    for row in 0..64 {
        for column in 0..columns {
            let dot: f32 = (0..16).map(|k| value(0, row, k) * value(1, column, k)).sum();
            // warps have 16 rows each, lanes two neighbouring columns of a row and of that eight below
            let thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
            let got = got[thread * columns / 2 + column / 8 * 4 + row % 16 / 8 * 2 + column % 2];
            assert_eq!(got, before + factor * dot, "row {row}, column {column}, {columns} columns, {scales}");
        }
    }
}

const PLAIN: &str = "%p1, 1, 1, 0, 0";

#[test]
fn products_in_all_layouts() {
    let in_rows = |row, start, leading, stride| Layout { row, start, leading, stride };
    // 16 values of rows that have more of them begin anywhere in these
    let all = [
        in_rows(128, 0, 16, 1024),
        in_rows(128, 96, 16, 1024),
        in_rows(64, 32, 16, 512),
        in_rows(64, 0, 16, 1024),
        in_rows(32, 0, 16, 256),
        in_rows(16, 0, 128, 256),
        in_rows(16, 16, 1024, 128),
    ];
    for a in all {
        for (b, columns) in all.into_iter().flat_map(|b| [(b, 8), (b, 56)]) {
            expect(&RIGHT, (a, Layout { start: 8192 + b.start, ..b }), columns, PLAIN, (1.0, 1.0));
        }
    }
    let (plain, factors) =
        ((A, B), ["%p1, -1, 1, 0, 0", "%p1, -1, -1, 0, 0", "%p2, 1, -1, 0, 0", "%p2, 1, 1, 0, 0"]);
    for (scales, result) in factors.into_iter().zip([(-1.0, 1.0), (1.0, 1.0), (-1.0, 0.0), (1.0, 0.0)]) {
        expect(&RIGHT, plain, 16, scales, result);
    }
    let two = [COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, PRODUCT, COMMIT, WAIT, STORE];
    expect(&two, plain, 16, PLAIN, (2.0, 1.0));
}

/// What goes wrong in the kernel of these pieces.
fn fault_of(pieces: &[&str], descriptors: [u64; 2], threads: u32) -> Fault {
    let text = text(pieces, 8, PLAIN);
    match run(&text, &image(A, B, 8), descriptors, threads, 8) {
        Ok(_) => panic!("{pieces:?} is run without a fault"),
        Err(trap) => trap.fault,
    }
}

fn fault(pieces: &[&str]) -> Fault {
    fault_of(pieces, [A.bits(), B.bits()], 128)
}

macro_rules! assert_fault {
    ($got:expr, $want:pat) => {
        let got = $got;
        assert!(matches!(got, $want), "{got}: {got:?}");
    };
}

#[test]
fn what_a_product_reads_must_be_shown_to_it() {
    assert_fault!(fault(&[COPY, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Proxy { by: 0, .. });
    assert_fault!(fault(&[SHOW, COPY, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Proxy { .. });
    assert_fault!(fault(&[COPY, MEET, SHOW, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Proxy { .. });
    let elsewhere = "fence.proxy.async.global;";
    assert_fault!(fault(&[COPY, elsewhere, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Proxy { .. });
    assert_fault!(fault(&[COPY, SHOW, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Race { .. });
    assert_fault!(fault(&[SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE]), Fault::Unwritten { .. });
    let copy = "cp.async.cg.shared.global [%r3], [%rd1], 16;";
    assert_fault!(
        fault(&[COPY, copy, SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, STORE]),
        Fault::Pending { .. }
    );
    // a second fence, which is too late for what the first one shows, does no harm
    let here = "fence.proxy.async.shared::cta;";
    expect(&[COPY, here, MEET, SHOW, FENCE, PRODUCT, COMMIT, WAIT, STORE], (A, B), 8, PLAIN, (1.0, 1.0));
}

#[test]
fn what_a_product_reads_must_stay() {
    let write = "st.shared.b32 [%r3], %r1;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, write, WAIT, STORE]),
        Fault::BeingRead { by: 0, .. }
    );
    let copy = "cp.async.cg.shared.global [%r3], [%rd1], 16;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, copy, WAIT, STORE]),
        Fault::BeingRead { .. }
    );
    // the first warp writes rows of the second one
    let other = "@%p3 st.shared.b32 [%r3+2048], %r1;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, other, STORE]),
        Fault::BeingRead { .. }
    );
    expect(
        &[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, MEET, other, STORE],
        (A, B),
        8,
        PLAIN,
        (1.0, 1.0),
    );
}

#[test]
fn sums_are_nobodys_until_they_are_waited_for() {
    assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, STORE]), Fault::Busy);
    assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, WAIT, STORE]), Fault::Busy);
    let but_one = "wgmma.wait_group.sync.aligned 1;";
    assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, but_one, STORE]), Fault::Busy);
    let two = [COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, PRODUCT, COMMIT, but_one, STORE];
    assert_fault!(fault(&two), Fault::Busy);
    let write = "mov.f32 %f1, 0f00000000;";
    assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, write, WAIT, STORE]), Fault::Busy);
}

#[test]
fn sums_are_fenced_before_products() {
    assert_fault!(fault(&[COPY, SHOW, MEET, PRODUCT, COMMIT, WAIT, STORE]), Fault::Unfenced);
    let write = "mov.f32 %f1, 0f00000000;";
    assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, write, PRODUCT, COMMIT, WAIT, STORE]), Fault::Unfenced);
    let read = "add.f32 %f100, %f1, %f1;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, FENCE, PRODUCT, COMMIT, WAIT, read, PRODUCT, COMMIT, WAIT, STORE]),
        Fault::Unfenced
    );
    let wider = "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 \
                 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, %rd3, %rd4, %p1, 1, 1, 0, 0;";
    let zeros = "mov.f32 %f4, 0f00000000; mov.f32 %f5, %f4; mov.f32 %f6, %f4; mov.f32 %f7, %f4;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, zeros, FENCE, PRODUCT, COMMIT, wider, COMMIT, WAIT, STORE]),
        Fault::Unfenced
    );
}

#[test]
fn four_warps_go_together() {
    let skips = ["@%p3 bra past;", FENCE, PRODUCT, COMMIT, WAIT, "past:", STORE];
    assert_fault!(fault(&[&[COPY, SHOW, MEET][..], &skips].concat()), Fault::Warpgroup { missing: 0, .. });
    // three warps are no group, and neither are the last three of seven
    let descriptors = [A.bits(), B.bits()];
    for threads in [96, 224] {
        let alone = [FENCE, STORE];
        assert_fault!(fault_of(&alone, descriptors, threads), Fault::Warpgroup { .. });
    }
    // lanes of a warp
    let halves = ["setp.lt.u32 %p3, %r1, 16;", "@%p3 bra past;", FENCE, "past:", "ret;"];
    assert_fault!(fault(&halves), Fault::Diverged { .. });
    // the same instruction at another place is another one
    let apart = ["@%p3 bra past;", FENCE, "ret;", "past:", FENCE, "ret;"];
    assert_fault!(fault(&apart), Fault::Warpgroup { .. });
}

#[test]
fn descriptors_are_looked_at() {
    let wrong = |a: u64| fault_of(&RIGHT, [a, B.bits()], 128);
    for bit in [14, 15, 30, 31, 46, 48, 49, 51, 52, 61] {
        assert_fault!(wrong(A.bits() | 1 << bit), Fault::Descriptor { .. });
    }
    for layout in [
        Layout { start: 128, ..A },                // in the second row of a pattern
        Layout { start: 112, ..A },                // 16 values beyond the end of a row
        Layout { stride: 512, ..A },               // no whole pattern
        Layout { row: 64, start: 64, ..A },        // in the second row
        Layout { row: 32, start: 16, ..A },        // beyond the end
        Layout { row: 32, stride: 128 + 16, ..A }, // no whole pattern
    ] {
        assert_fault!(wrong(layout.bits()), Fault::Descriptor { .. });
    }
    assert_fault!(wrong(Layout { stride: 4096, ..A }.bits()), Fault::OutOfBounds { .. });
    let differs = "@%p3 add.s64 %rd3, %rd3, 2;";
    assert_fault!(
        fault(&[COPY, SHOW, MEET, FENCE, differs, PRODUCT, COMMIT, WAIT, STORE]),
        Fault::Descriptor { .. }
    );
}

#[test]
fn what_is_not_known_is_said() {
    let columns = "{%f0, %f1, %f2, %f3}";
    let a_in_registers = format!(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {columns}, {{%r4, %r5, %r6, %r7}}, %rd4, {PLAIN};"
    );
    for instruction in [
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}, %rd3, %rd4, %p1, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n9k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd3, %rd4, %p1, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1}, %rd3, %rd4, %p1, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd3, %rd4, %p1, 1, 1, 1, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd3, %rd4, %p1, 2, 1, 0, 0;",
        "wgmma.mma_async.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd3, %rd4, %p1, 1, 1, 0, 0;",
        "wgmma.fence.sync.aligned.x;",
        &a_in_registers,
    ] {
        assert_fault!(fault(&[COPY, SHOW, MEET, FENCE, instruction, STORE]), Fault::Unknown(_));
    }
}

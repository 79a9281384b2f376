//! Operands that do not fit each other are refused before anything is launched.

use super::*;
use crate::cuda::{Launch, Properties};
use crate::ops::KvType;
use crate::quant::Type;

fn refused(launch: Result<Launch, Error>, what: &str) {
    match launch {
        Err(Error::Operands(text)) => assert!(text.contains(what), "{text}, and not {what}"),
        other => panic!("{what}: {other:?}"),
    }
}

fn cache() -> Cache {
    let at = Address(256);
    let types = (KvType::F16, KvType::Q8_0);
    Cache { keys: at, values: at, types, positions: at, sequences: at, pages: at, max_pages: 1 }
}

fn qkv() -> Qkv {
    let at = Address(256);
    let w = Matrix { data: at, ..Matrix::default() };
    let heads = FinishHeads {
        heads: Heads { n_head_kv: 2, group: 3, dim_k: 64, dim_v: 32 },
        q: at,
        q_stride: 6 * 64,
        q_head_stride: 64,
        k: at,
        k_stride: 2 * 64,
        v: at,
        v_stride: 2 * 32,
        tokens: 1,
        clamp: None,
        norm: None,
        cosines: at,
        sines: at,
        n_pairs: 32,
        halves: true,
        temperature: Temperature::default(),
        cache: cache(),
    };
    Qkv { types: [Type::Q4_K; 3], w: [w; 3], x: at, k: 512, heads, v_norm: None, counters: at }
}

#[test]
fn queries_keys_and_values() {
    let good = qkv();
    let launch = good.launch().expect("what there is a kernel for");
    assert_eq!(launch.kernel.name, "qkv_q4_k");
    assert_eq!(launch.grid, [(6 * 64 + 2 * 64 + 2 * 32) / 32, 1, 1]);
    let mixed = Qkv { types: [Type::Q4_K, Type::Q4_K, Type::Q6_K], ..good };
    assert_eq!(mixed.launch().expect("a pair").kernel.name, "qkv_q4_k_q6_k");
    let turned = Qkv { types: [Type::Q6_K, Type::Q4_K, Type::Q4_K], ..good };
    assert_eq!(turned.launch().expect("the same pair").kernel.name, "qkv_q4_k_q6_k");

    refused(Qkv { types: [Type::Q4_K, Type::Q5_K, Type::Q6_K], ..good }.launch(), "no kernel");
    refused(Qkv { types: [Type::Q4_K, Type::F16, Type::F16], ..good }.launch(), "no kernel");
    refused(Qkv { k: 500, ..good }.launch(), "rows of 500 values");
    let mut odd = good;
    odd.heads.heads.dim_v = 40;
    refused(odd.launch(), "cannot be finished");
    assert!(Qkv { counters: Address::NONE, ..odd }.launch().is_ok(), "products alone");
    let mut close = good;
    close.heads.q_head_stride = 32;
    refused(close.launch(), "overlap");
    let norm = Norm { kind: NormKind::Layer, ..Norm::default() };
    refused(Qkv { v_norm: Some(norm), ..good }.launch(), "normalized otherwise");

    let mut alone = good;
    (alone.heads.k, alone.heads.v) = (Address::NONE, Address::NONE);
    assert_eq!(alone.launch().expect("queries").grid[0], 6 * 64 / 32);
    assert_eq!(alone.heads.launch().expect("queries").grid[0], 6);
}

#[test]
fn recurrent_layers() {
    let runs = Runs { n: 2, longest: 40, ..Runs::default() };
    let conv = Convolve { width: 4, channels: 96, runs, q8: Address(256), ..Convolve::default() };
    assert_eq!(conv.launch().expect("a convolution").grid, [1, 2, 2]);
    refused(Convolve { width: 33, ..conv }.launch(), "33 tokens");
    refused(Convolve { width: 0, ..conv }.launch(), "0 tokens");
    refused(Convolve { channels: 40, ..conv }.launch(), "cannot be quantized");

    let scan =
        StateSpace { channels: 64, n_head: 2, n_group: 1, d_state: 128, runs, ..StateSpace::default() };
    assert_eq!(scan.launch().expect("a state space").kernel.name, "state_space_16");
    for (d_state, values) in [(1, 2), (16, 2), (17, 4), (256, 32)] {
        let launch = StateSpace { d_state, ..scan }.launch().expect("a state space");
        assert_eq!(launch.kernel.name, format!("state_space_{values}"));
    }
    refused(StateSpace { d_state: 257, ..scan }.launch(), "257 values");
    refused(StateSpace { channels: 48, ..scan }.launch(), "48 channels");
    refused(StateSpace { n_head: 0, ..scan }.launch(), "0 heads");
    refused(StateSpace { n_group: 4, ..scan }.launch(), "4 groups");

    let rms = Norm { kind: NormKind::Rms, ..Norm::default() };
    let net = DeltaNet {
        n_head: 4,
        n_head_k: 2,
        head_dim: 128,
        q_norm: rms,
        k_norm: rms,
        runs,
        ..DeltaNet::default()
    };
    assert_eq!(net.launch().expect("a delta net").grid, [32, 2, 1]);
    for head_dim in [0, 48, 288] {
        refused(DeltaNet { head_dim, ..net }.launch(), &format!("{head_dim} values"));
    }
    refused(DeltaNet { n_head_k: 3, ..net }.launch(), "3 keys");
    refused(DeltaNet { k_norm: Norm::default(), ..net }.launch(), "normalized otherwise");
    refused(DeltaNet { grouped: Some((0, 4)), ..net }.launch(), "no heads");
}

#[test]
fn heads_of_attention() {
    assert_eq!(Flash::room(128, 128), Some((64 + 2 * 64) * 136 * 2));
    assert_eq!(Flash::room(576, 512), Some((96 * 584 + 32 * 264) * 2));
    for (dim_k, dim_v) in [(72, 72), (128, 64), (512, 576)] {
        assert_eq!(Flash::room(dim_k, dim_v), None, "{dim_k} {dim_v}");
    }
    let at = Address(256);
    let latent = FinishLatent {
        n_head: 2,
        nope: 128,
        rope: 64,
        rank: 512,
        q: at,
        q_stride: 384,
        kv: at,
        kv_stride: 576,
        kv_norm: Norm { kind: NormKind::Rms, weight: at, ..Norm::default() },
        tokens: 1,
        cosines: at,
        sines: at,
        n_pairs: 32,
        halves: false,
        temperature: Temperature::default(),
        cache: cache(),
        y: at,
    };
    assert_eq!(latent.launch().expect("latent attention").grid, [3, 1, 1]);
    refused(FinishLatent { rank: 508, ..latent }.launch(), "multiples of 8");
    refused(FinishLatent { rank: u32::MAX, ..latent }.launch(), "multiples of 8");
    refused(FinishLatent { n_pairs: 33, ..latent }.launch(), "33 pairs");
    refused(FinishLatent { kv_norm: Norm::default(), ..latent }.launch(), "normalized otherwise");
}

#[test]
fn candidates_of_the_next_token() {
    let at = Address(256);
    let of = TopK { logits: at, n: 1000, rows: 2, k: 40, places: at, values: at };
    let shared = SharedTopK { of, room: at, counters: at };
    assert_eq!(shared.launch().expect("a top-k").grid, [SharedTopK::BLOCKS, 2, 1]);
    refused(SharedTopK { of: TopK { k: 0, ..of }, ..shared }.launch(), "the 0 largest");
    refused(SharedTopK { of: TopK { k: 1001, ..of }, ..shared }.launch(), "the 1001 largest");
    refused(
        Sample { places: at, values: at, k: 0, rows: 1, options: at, tokens: at }.launch(),
        "no candidates",
    );
}

#[test]
fn products_of_many_columns_are_cut_for_the_device() {
    let mut h100 = Properties {
        name: "H100".to_owned(),
        compute: Properties::WARPGROUPS,
        multiprocessors: 132,
        shared_bytes: 227 << 10,
        warpgroups: true,
    };
    // layers of 8B, and experts that get 128 columns each
    for ([rows, columns, experts], width) in [
        ([4096, 9, 1], 64),
        ([4096, 64, 1], 64),
        ([1024, 2048, 1], 128),
        ([4096, 512, 1], 128),
        ([4096, 2048, 1], 256),
        ([14336, 512, 1], 256),
        ([768, 16384, 128], 128),
    ] {
        let tiles = Tiles::of(&h100, rows, columns, experts);
        assert_eq!(tiles, Tiles::Warpgroups(width), "{rows} rows, {columns} columns, {experts} experts");
    }
    let at = Address(256);
    let product = Matmul {
        ty: Type::Q4_K,
        w: Matrix { data: at, ..Matrix::default() },
        x: at,
        k: 4096,
        rows: 4000,
        columns: 2000,
        experts: None,
        epilogue: Epilogue::Store,
        y: at,
        y_stride: 4000,
        tiles: Tiles::Warps,
    };
    let launch = product.on(&h100).launch().expect("what there is a kernel for");
    assert_eq!((launch.kernel.name, launch.grid), ("matmul_wgmma_q4_k_256", [8, 32, 1]));
    assert!(launch.shared <= h100.shared_bytes, "{} bytes", launch.shared);
    h100.warpgroups = false;
    let launch = product.on(&h100).launch().expect("what there is a kernel for");
    assert_eq!((launch.kernel.name, launch.grid), ("matmul_q4_k", [16, 32, 1]));
}

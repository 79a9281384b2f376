//! Instructions that threads run together.

use super::super::code::{Collective, Element, Op, Product, Reduction, Reg, Shuffle, Vote, WarpgroupProduct};
use super::super::lower::Lowering;
use super::super::opcode::Opcode;
use super::super::parse::Operand;
use super::super::types::{Space, Type};
use super::memory::update;
use super::{Done, exactly};

impl Lowering<'_> {
    pub(super) fn barrier(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        if op.take("warp") {
            op.take("sync");
            op.finish()?;
            let mask = self.source(&exactly::<1>(operands)?[0])?;
            return self.emit(Op::WarpSync { mask });
        }
        op.take("cta");
        op.take("aligned");
        let (sync, arrive, red) = (op.take("sync"), op.take("arrive"), op.take("red"));
        if !red {
            op.finish()?;
            let (id, threads) = match operands {
                [id] if sync => (self.source(id)?, None),
                [id, threads] if sync || arrive => (self.source(id)?, Some(self.source(threads)?)),
                _ => return Err("a barrier and a number of threads expected".into()),
            };
            return self.emit(Op::Barrier { id, threads, wait: sync, reduce: None });
        }
        let reduction = op.take_some(|part| match part {
            "popc" => Some(Reduction::Count),
            "and" => Some(Reduction::And),
            "or" => Some(Reduction::Or),
            _ => None,
        });
        let Some(reduction) = reduction else { return Err("a reduction expected".into()) };
        op.ty()?;
        op.finish()?;
        let (target, id, threads, p) = match operands {
            [target, id, p] => (target, id, None, p),
            [target, id, threads, p] => (target, id, Some(threads), p),
            _ => return Err("operands expected".into()),
        };
        let (d, id, p) = (self.target(target)?, self.source(id)?, self.source(p)?);
        let threads = threads.map(|threads| self.source(threads)).transpose()?;
        self.push(Op::Barrier { id, threads, wait: true, reduce: Some((reduction, d, p)) });
        Ok(())
    }

    pub(super) fn collective(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        op.take("sync");
        match op.name {
            "activemask" => {
                op.ty()?;
                op.finish()?;
                let d = self.target(&exactly::<1>(operands)?[0])?;
                self.push(Op::ActiveMask { d });
            }
            "shfl" => {
                let mode = op.take_some(|part| match part {
                    "up" => Some(Shuffle::Up),
                    "down" => Some(Shuffle::Down),
                    "bfly" => Some(Shuffle::Butterfly),
                    "idx" => Some(Shuffle::Index),
                    _ => None,
                });
                let Some(mode) = mode else { return Err("a mode expected".into()) };
                op.ty()?;
                op.finish()?;
                let [target, a, b, c, mask] = exactly(operands)?;
                let (d, p) = self.two_targets(target)?;
                let s = [self.source(a)?, self.source(b)?, self.source(c)?];
                let mask = self.source(mask)?;
                self.push(Op::Shuffle { mode, d, p, s, mask });
            }
            "vote" => {
                let vote = op.take_some(|part| match part {
                    "all" => Some(Vote::All),
                    "any" => Some(Vote::Any),
                    "uni" => Some(Vote::Uniform),
                    "ballot" => Some(Vote::Ballot),
                    _ => None,
                });
                let Some(vote) = vote else { return Err("a mode expected".into()) };
                op.ty()?;
                op.finish()?;
                let [target, p, mask] = exactly(operands)?;
                let (d, p, mask) = (self.target(target)?, self.source(p)?, self.source(mask)?);
                self.push(Op::Vote { vote, d, p, mask });
            }
            "redux" => {
                let names = ["add", "min", "max", "and", "or", "xor"];
                let operation =
                    op.take_some(|part| names.into_iter().find(|&n| n == part)).ok_or("no operation")?;
                let fold = update(operation, op.ty()?)?;
                op.finish()?;
                let [target, s, mask] = exactly(operands)?;
                let (d, s, mask) = (self.target(target)?, self.source(s)?, self.source(mask)?);
                self.push(Op::Reduce { fold, d, s, mask });
            }
            "match" => {
                let (all, any) = (op.take("all"), op.take("any"));
                let bits = op.ty()?.bits();
                op.finish()?;
                if all == any {
                    return Err("`.all` or `.any` expected".into());
                }
                let [target, s, mask] = exactly(operands)?;
                let (d, p) = self.two_targets(target)?;
                let (s, mask) = (self.source(s)?, self.source(mask)?);
                self.push(Op::Match { all, bits, d, p, s, mask });
            }
            _ => return Err("no such instruction".into()),
        }
        Ok(())
    }

    /// `d` or `d|p`.
    fn two_targets(&mut self, operand: &Operand) -> Result<(Reg, Option<Reg>), String> {
        match operand {
            Operand::Pair(d, p) => Ok((self.target(d)?, Some(self.target(p)?))),
            single => Ok((self.target(single)?, None)),
        }
    }

    pub(super) fn matrix(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let complete = op.take("sync") & op.take("aligned") & op.take("m8n8");
        let transposed = op.take("trans");
        let count = op.take_some(|part| match part {
            "x1" => Some(1),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        op.take("shared");
        op.take("shared::cta");
        let sixteen = op.take("b16");
        op.finish()?;
        if !complete || !sixteen {
            return Err("matrices of 8 x 8 halves alone are known here".into());
        }
        let [first, second] = exactly(operands)?;
        if op.name == "movmatrix" {
            let (d, s) = (self.target(first)?, self.source(second)?);
            return self.emit(Op::TransposeMatrix { d, s });
        }
        self.granule = self.granule.min(4);
        let stores = op.name == "stmatrix";
        let (address, registers) = if stores { (first, second) } else { (second, first) };
        let at = self.place(address, Space::Shared, false)?;
        let registers = match stores {
            true => self.sources(registers)?,
            false => self.targets(registers)?.into_iter().map(|(d, _)| d).collect(),
        };
        if Some(registers.len()) != count {
            return Err("another number of registers expected".into());
        }
        self.push(match stores {
            true => Op::StoreMatrix { at, transposed, s: registers },
            false => Op::LoadMatrix { at, transposed, d: registers },
        });
        Ok(())
    }

    pub(super) fn product(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let layout = op.take("sync") & op.take("aligned") & op.take("row") & op.take("col");
        let shape = op.take_some(|part| match part {
            "m16n8k4" => Some((16, 4)),
            "m16n8k8" => Some((16, 8)),
            "m16n8k16" => Some((16, 16)),
            "m16n8k32" => Some((16, 32)),
            "m8n8k16" => Some((8, 16)),
            _ => None,
        });
        let (Some((m, k)), true) = (shape, layout) else {
            return Err("a shape that is not known here".into());
        };
        let clamp = op.take("satfinite");
        let types = [op.ty()?, op.ty()?, op.ty()?, op.ty()?];
        op.finish()?;
        let element = |ty| {
            Ok(match ty {
                Type::F16 => Element::F16,
                Type::Bf16 => Element::Bf16,
                Type::Tf32 => Element::Tf32,
                Type::S8 => Element::S8,
                Type::U8 => Element::U8,
                _ => return Err("elements of a type that is not known here".to_owned()),
            })
        };
        let (left, right) = (element(types[1])?, element(types[2])?);
        let integers = matches!(left, Element::S8 | Element::U8);
        let sums = if integers { Type::S32 } else { Type::F32 };
        let half_sums = types[0] == Type::F16 && left == Element::F16;
        let right_sums = types[0] == types[3] && (types[0] == sums || half_sums);
        if !right_sums || integers != matches!(right, Element::S8 | Element::U8) || !integers && left != right
        {
            return Err("types that do not go together".into());
        }
        let [d, a, b, c] = exactly(operands)?;
        let d: Vec<_> = self.targets(d)?.into_iter().map(|(d, _)| d).collect();
        let (a, b, c) = (self.sources(a)?, self.sources(b)?, self.sources(c)?);
        let of_words = |rows: usize, columns: usize, bits: usize| rows * columns * bits / 32 / 32;
        let sum_words = of_words(m, 8, if half_sums { 16 } else { 32 });
        let sizes = [sum_words, of_words(m, k, left.bits()), of_words(k, 8, right.bits()), sum_words];
        if [d.len(), a.len(), b.len(), c.len()] != sizes {
            return Err("another number of registers expected".into());
        }
        self.push(Op::Product(Box::new(Product { m, k, left, right, half_sums, clamp, d, a, b, c })));
        Ok(())
    }

    pub(super) fn proxy_fence(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        op.take("proxy");
        op.take("async");
        let elsewhere = op.take("global") || op.take("shared::cluster");
        op.take("shared::cta");
        op.finish()?;
        exactly::<0>(operands)?;
        self.emit(if elsewhere { Op::Nothing } else { Op::ProxyFence })
    }

    pub(super) fn warpgroup(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let kinds = ["fence", "commit_group", "wait_group", "mma_async"];
        let kind = op.take_some(|part| kinds.into_iter().find(|&kind| kind == part)).ok_or("no operation")?;
        if !(op.take("sync") & op.take("aligned")) {
            return Err("`.sync.aligned` expected".into());
        }
        if kind == "mma_async" {
            return self.warpgroup_product(op, operands);
        }
        op.finish()?;
        let collective = match (kind, operands) {
            ("fence", []) => Collective::Fence,
            ("commit_group", []) => Collective::Commit,
            ("wait_group", [Operand::Number(groups)]) => Collective::Wait(*groups as usize),
            _ => return Err("other operands expected".into()),
        };
        self.emit(Op::Warpgroup(collective))
    }

    fn warpgroup_product(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let columns =
            op.take_some(|part| part.strip_prefix("m64n")?.strip_suffix("k16")?.parse::<usize>().ok());
        let Some(columns) = columns.filter(|n| (8..=256).contains(n) && n.is_multiple_of(8)) else {
            return Err("a shape that is not known here".into());
        };
        if [op.ty()?, op.ty()?, op.ty()?] != [Type::F32, Type::Bf16, Type::Bf16] {
            return Err("sums of f32 of factors of bf16 alone are known here".into());
        }
        op.finish()?;
        let [d, a, b, adds, scale_a, scale_b, transposed_a, transposed_b] = exactly(operands)?;
        if matches!(a, Operand::Vector(_)) {
            return Err("a factor in registers is not known here".into());
        }
        if [transposed_a, transposed_b] != [&Operand::Number(0); 2] {
            return Err("transposed factors are not known here".into());
        }
        let sign = |scale: &Operand| match scale {
            Operand::Number(1) => Ok(1.0),
            Operand::Number(bits) if *bits as i32 == -1 => Ok(-1.0),
            _ => Err("1 or -1 expected".to_owned()),
        };
        let factor = sign(scale_a)? * sign(scale_b)?;
        let d: Vec<_> = self.targets(d)?.into_iter().map(|(d, _)| d).collect();
        if d.len() != columns / 2 {
            return Err("another number of registers expected".into());
        }
        let (a, b, adds) = (self.source(a)?, self.source(b)?, self.source(adds)?);
        let product = WarpgroupProduct { columns, adds, factor, d, a, b };
        self.emit(Op::Warpgroup(Collective::Multiply(Box::new(product))))
    }
}

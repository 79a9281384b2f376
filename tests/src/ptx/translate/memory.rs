//! Instructions that access memory.

use super::super::code::{Op, Place, Update};
use super::super::float;
use super::super::integer::{mask, saturate, value};
use super::super::lower::{Lowering, Symbol};
use super::super::number::{self, BF16, F16, Format, Round};
use super::super::opcode::Opcode;
use super::super::parse::Operand;
use super::super::types::{Space, Type};
use super::{Done, shifted};

fn cache_hint(part: &str) -> bool {
    part.starts_with("L1::")
        || part.starts_with("L2::")
        || matches!(part, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt")
}

impl Lowering<'_> {
    /// Where an operand in brackets points; `space` unless a variable says better.
    pub(super) fn place(&mut self, operand: &Operand, space: Space, strong: bool) -> Result<Place, String> {
        let Operand::Address(base, offset) = operand else { return Err("an address expected".into()) };
        if let Operand::Name(name, _) = &**base
            && let Some(Symbol::Variable { space, address }) = self.find(name)
        {
            let base = self.constant(shifted(address, *offset));
            return Ok(Place { space, base, offset: 0, strong, cached: false });
        }
        Ok(Place { space, base: self.source(base)?, offset: *offset, strong, cached: false })
    }

    /// The space, strength and width of an access, and how many elements it has.
    fn access(&mut self, op: &mut Opcode<'_>) -> Result<(Space, bool, Type, usize), String> {
        let space = op.take_some(Space::named).unwrap_or(Space::Generic);
        let mut strong = false;
        op.ignore(|part| {
            let ordered = matches!(part, "volatile" | "relaxed" | "acquire" | "release" | "acq_rel" | "mmio");
            strong |= ordered;
            ordered
                || matches!(part, "weak" | "cta" | "gpu" | "sys" | "cluster" | "nc" | "unified")
                || cache_hint(part)
        });
        let count =
            op.take_some(|part| ["", "", "v2", "", "v4", "", "", "", "v8"].iter().position(|&v| v == part));
        let ty = op.ty()?;
        op.finish()?;
        if ty == Type::B128 {
            return Err("128 bits in one register are not known here".into());
        }
        if !matches!(space, Space::Local | Space::Param | Space::Const) {
            self.granule = self.granule.min(ty.bytes());
        }
        Ok((space, strong, ty, count.unwrap_or(1)))
    }

    pub(super) fn load(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let cached = op.has("nc");
        let (space, strong, ty, count) = self.access(op)?;
        let [target, address, _policy @ ..] = operands else { return Err("operands expected".into()) };
        let at = Place { cached, ..self.place(address, space, strong)? };
        let targets = self.targets(target)?;
        if targets.len() != count {
            return Err(format!("{count} registers expected"));
        }
        let extend = targets.iter().map(|&(_, bits)| bits).max().filter(|_| ty.signed());
        let d = targets.into_iter().map(|(d, _)| d).collect();
        self.push(Op::Load { at, bytes: ty.bytes(), extend, d });
        Ok(())
    }

    pub(super) fn store(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let (space, strong, ty, count) = self.access(op)?;
        let [address, value, _policy @ ..] = operands else { return Err("operands expected".into()) };
        let at = self.place(address, space, strong)?;
        let s = self.sources(value)?;
        if s.len() != count {
            return Err(format!("{count} registers expected"));
        }
        self.push(Op::Store { at, bytes: ty.bytes(), s });
        Ok(())
    }

    pub(super) fn atomic(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let names = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        let operation =
            op.take_some(|part| names.into_iter().find(|&name| name == part)).ok_or("no operation")?;
        op.take("noftz");
        let red = op.name == "red";
        if op.has("release") || op.has("acq_rel") {
            self.push(Op::Fence);
        }
        let (space, _, ty, _) = self.access(op)?;
        let (target, operands) = match (red, operands) {
            (true, operands) => (None, operands),
            (false, [target, operands @ ..]) => (Some(self.target(target)?), operands),
            _ => return Err("operands expected".into()),
        };
        let [address, b, third @ ..] = operands else { return Err("operands expected".into()) };
        let at = self.place(address, space, true)?;
        let b = self.source(b)?;
        let c = match (operation, third.first()) {
            ("cas", Some(third)) => self.source(third)?,
            ("cas", None) => return Err("a value to store expected".into()),
            _ => b,
        };
        let update = update(operation, ty)?;
        self.push(Op::Atomic { at, bytes: ty.bytes(), update, d: target, s: [b, c] });
        Ok(())
    }

    pub(super) fn copy(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        if !op.take("async") {
            return Err("only `cp.async` is known here".into());
        }
        if op.take("commit_group") {
            op.finish()?;
            return self.emit(Op::CopyCommit);
        }
        if op.take("wait_all") {
            op.finish()?;
            self.push(Op::CopyCommit);
            return self.emit(Op::CopyWait(0));
        }
        if op.take("wait_group") {
            op.finish()?;
            let [Operand::Number(groups)] = operands else {
                return Err("a number of groups expected".into());
            };
            return self.emit(Op::CopyWait(*groups as usize));
        }
        let (whole, to_shared) = (op.next_is("cg"), op.take("shared") || op.take("shared::cta"));
        op.ignore(cache_hint);
        if !to_shared || !op.take("global") {
            return Err("a copy from global to shared memory expected".into());
        }
        op.finish()?;
        let [to, from, Operand::Number(bytes), rest @ ..] = operands else {
            return Err("operands expected".into());
        };
        if !(*bytes == 16 || !whole && matches!(*bytes, 4 | 8)) {
            return Err(format!("{bytes} bytes cannot be copied"));
        }
        self.granule = self.granule.min(*bytes);
        let (to, from) = (self.place(to, Space::Shared, false)?, self.place(from, Space::Global, false)?);
        let size = rest.first().map(|size| self.source(size)).transpose()?;
        self.push(Op::CopyAsync { to, from, bytes: *bytes, size });
        Ok(())
    }
}

/// What an atomic operation leaves in memory, of what was there and its operands.
pub(super) fn update(operation: &str, ty: Type) -> Result<Update, String> {
    let all = mask(ty.bits());
    let halves = |count, format: Format| -> Update {
        Box::new(move |old, b, _| {
            float::packed(count, |i| {
                let (x, y) = (format.widen(float::part(old, i)), format.widen(float::part(b, i)));
                format.narrow(number::fused(x, 1.0, y), Round::Nearest)
            })
        })
    };
    Ok(match (operation, ty) {
        ("add", Type::F32) => Box::new(|old, b, _| float::f32_bits(float::f32_of(old) + float::f32_of(b))),
        ("add", Type::F64) => Box::new(|old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits()),
        ("add", Type::F16) => halves(1, F16),
        ("add", Type::F16x2) => halves(2, F16),
        ("add", Type::Bf16) => halves(1, BF16),
        ("add", Type::Bf16x2) => halves(2, BF16),
        (_, ty) if ty.float() => return Err("not for floats".into()),
        ("add", _) => Box::new(move |old, b, _| old.wrapping_add(b) & all),
        ("min", _) => Box::new(move |old, b, _| saturate(value(old, ty).min(value(b, ty)), ty)),
        ("max", _) => Box::new(move |old, b, _| saturate(value(old, ty).max(value(b, ty)), ty)),
        ("and", _) => Box::new(|old, b, _| old & b),
        ("or", _) => Box::new(move |old, b, _| (old | b) & all),
        ("xor", _) => Box::new(move |old, b, _| (old ^ b) & all),
        ("exch", _) => Box::new(move |_, b, _| b & all),
        ("cas", _) => Box::new(move |old, b, c| if old == b & all { c & all } else { old }),
        ("inc", _) => Box::new(move |old, b, _| if old >= b & all { 0 } else { old + 1 }),
        ("dec", _) => Box::new(move |old, b, _| if old == 0 || old > b & all { b & all } else { old - 1 }),
        _ => return Err("no such operation".into()),
    })
}

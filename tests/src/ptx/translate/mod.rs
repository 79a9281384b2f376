//! Single instructions to operations.

mod memory;
mod warp;

use super::code::{Constant, Function, Op, Reg, four, one, three, two};
use super::integer::{mask, value};
use super::lower::{Lowering, Symbol, special};
use super::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use super::opcode::Opcode;
use super::parse::{Instruction, Operand};
use super::types::Space;
use super::{convert, float, integer};

type Done = Result<(), String>;

/// Operands of an instruction, as many as it takes.
fn exactly<const N: usize>(operands: &[Operand]) -> Result<&[Operand; N], String> {
    operands.try_into().map_err(|_| format!("{N} operands expected"))
}

impl Lowering<'_> {
    pub fn translate(&mut self, instruction: &Instruction) -> Done {
        let mut opcode = Opcode::new(&instruction.opcode);
        let (op, operands) = (&mut opcode, &instruction.operands[..]);
        match op.name {
            "ld" | "ldu" => self.load(op, operands),
            "st" => self.store(op, operands),
            "atom" | "red" => self.atomic(op, operands),
            "cp" => self.copy(op, operands),
            "bra" => {
                op.take("uni");
                op.finish()?;
                let [Operand::Name(name, 0)] = operands else { return Err("a label expected".into()) };
                let Some(Symbol::Label(label)) = self.find(name) else {
                    return Err(format!("no label `{name}`"));
                };
                self.push(Op::Branch(label));
                Ok(())
            }
            "brx" => {
                op.take("idx");
                op.take("uni");
                op.finish()?;
                let [index, Operand::Name(name, 0)] = operands else { return Err("a table expected".into()) };
                let index = self.source(index)?;
                let Some(Symbol::Targets(targets)) = self.find(name) else {
                    return Err(format!("no table `{name}`"));
                };
                self.push(Op::BranchTable { index, targets });
                Ok(())
            }
            "call" => self.call(op, operands),
            "ret" => {
                op.take("uni");
                op.finish()?;
                self.leave();
                Ok(())
            }
            "exit" => self.emit(Op::Exit),
            "trap" | "brkpt" => self.emit(Op::Trap("the kernel trapped".into())),
            "bar" | "barrier" => self.barrier(op, operands),
            "shfl" | "vote" | "redux" | "match" | "activemask" | "elect" => self.collective(op, operands),
            "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix(op, operands),
            "mma" => self.product(op, operands),
            "wgmma" => self.warpgroup(op, operands),
            "fence" if op.has("proxy") && op.has("async") => self.proxy_fence(op, operands),
            "membar" | "fence" if ["gl", "gpu", "sys", "cluster"].iter().any(|scope| op.has(scope)) => {
                self.emit(Op::Fence)
            }
            "membar" | "fence" | "prefetch" | "prefetchu" | "griddepcontrol" | "nanosleep" | "discard"
            | "applypriority" => self.emit(Op::Nothing),
            "createpolicy" => {
                let d = self.target(operands.first().ok_or("a register expected")?)?;
                let zero = self.constant(Constant::Bits(0));
                self.copy_register(d, zero, 64);
                Ok(())
            }
            "cvta" => self.convert_address(op, operands),
            "isspacep" => {
                let space = op.take_some(Space::named).ok_or("a space expected")?;
                let [d, s] = exactly(operands)?;
                let (d, s) = (self.target(d)?, self.source(s)?);
                self.push(Op::IsSpace { space, d, s });
                Ok(())
            }
            "setp" => self.set_predicate(op, operands),
            "mov" => self.mov(op, operands),
            "add" | "sub" | "mad" if op.has("cc") => self.with_carry(op, operands, false),
            "addc" | "subc" | "madc" => self.with_carry(op, operands, true),
            _ => self.arithmetic(op, operands),
        }
    }

    /// The register that holds an operand's value.
    fn source(&mut self, operand: &Operand) -> Result<Reg, String> {
        match operand {
            Operand::Number(bits) => Ok(self.constant(Constant::Bits(*bits))),
            Operand::Not(inner) => {
                let s = self.source(inner)?;
                let d = self.register();
                self.apply(one(|a| a & 1 ^ 1), d, &[s]);
                Ok(d)
            }
            Operand::Name(name, offset) => match self.find(name) {
                Some(Symbol::Register { reg, .. }) if *offset == 0 => Ok(reg),
                Some(Symbol::Variable { address, .. }) => Ok(self.constant(shifted(address, *offset))),
                Some(_) => Err(format!("`{name}` is no value")),
                None if *offset == 0 => match special(name) {
                    Some(constant) => Ok(self.constant(constant)),
                    None => Err(format!("no register `{name}`")),
                },
                None => Err(format!("no variable `{name}`")),
            },
            other => Err(format!("{other:?} is no value")),
        }
    }

    /// The register that takes a result; `_` is one that nobody reads.
    fn target(&mut self, operand: &Operand) -> Result<Reg, String> {
        Ok(self.target_bits(operand)?.0)
    }

    fn target_bits(&mut self, operand: &Operand) -> Result<(Reg, u32), String> {
        let Operand::Name(name, 0) = operand else { return Err(format!("{operand:?} is no register")) };
        if name == "_" {
            return Ok((self.register(), 64));
        }
        match self.find(name) {
            Some(Symbol::Register { reg, bits }) => Ok((reg, bits)),
            _ => Err(format!("no register `{name}`")),
        }
    }

    /// One register, or those of a vector.
    fn sources(&mut self, operand: &Operand) -> Result<Vec<Reg>, String> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.source(part)).collect(),
            single => Ok(vec![self.source(single)?]),
        }
    }

    fn targets(&mut self, operand: &Operand) -> Result<Vec<(Reg, u32)>, String> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.target_bits(part)).collect(),
            single => Ok(vec![self.target_bits(single)?]),
        }
    }

    fn apply(&mut self, function: Function, d: Reg, sources: &[Reg]) {
        let mut s = [d; 4];
        s[..sources.len()].copy_from_slice(sources);
        self.push(Op::Pure { apply: function.apply, d, s });
    }

    fn copy_register(&mut self, d: Reg, s: Reg, bits: u32) {
        self.apply(one(move |a| a & mask(bits)), d, &[s]);
    }

    fn arithmetic(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, sources @ ..] = operands else { return Err("operands expected".into()) };
        let (d, bits) = self.target_bits(target)?;
        let function = match convert::find(op, bits)? {
            Some(function) => Some(function),
            None => match float::find(op)? {
                Some(function) => Some(function),
                None => integer::find(op)?,
            },
        };
        let Some(function) = function else { return Err("no such instruction".into()) };
        op.finish()?;
        if sources.len() != function.operands {
            return Err(format!("{} operands expected", function.operands + 1));
        }
        let sources = sources.iter().map(|s| self.source(s)).collect::<Result<Vec<_>, _>>()?;
        self.apply(function, d, &sources);
        Ok(())
    }

    fn set_predicate(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, a, b, third @ ..] = operands else { return Err("operands expected".into()) };
        let combine: Option<fn(u64, u64) -> u64> = op.clone().take_some(|part| match part {
            "and" => Some((|t, c| t & c) as fn(u64, u64) -> u64),
            "or" => Some(|t, c| t | c),
            "xor" => Some(|t, c| t ^ c),
            _ => None,
        });
        let Some(function) = convert::find(op, 1)? else { return Err("no such instruction".into()) };
        op.finish()?;
        let sources = [self.source(a)?, self.source(b)?];
        let (p, q) = match target {
            Operand::Pair(p, q) => (self.target(p)?, Some(self.target(q)?)),
            single => (self.target(single)?, None),
        };
        match (combine, third) {
            (None, []) if q.is_none() => self.apply(function, p, &sources),
            (None, []) => {
                let holds = self.register();
                self.apply(function, holds, &sources);
                let holds_not = self.constant(Constant::Bits(1));
                self.predicates(|t, c| t & c, holds, holds_not, p, q);
            }
            (Some(combine), [third]) => {
                let third = self.source(third)?;
                let holds = self.register();
                self.apply(function, holds, &sources);
                self.predicates(combine, holds, third, p, q);
            }
            _ => return Err("a predicate and how to combine it expected".into()),
        }
        Ok(())
    }

    /// `p = holds op third` and `q = !holds op third`, where either may be the guard or the third predicate.
    fn predicates(&mut self, combine: fn(u64, u64) -> u64, holds: Reg, third: Reg, p: Reg, q: Option<Reg>) {
        let other = self.register();
        if q.is_some() {
            self.apply(two(move |t, c| combine(t ^ 1, c) & 1), other, &[holds, third]);
        }
        if let (Some(_), Some((reg, negated))) = (q, self.guard) {
            let guard = self.register();
            self.guard = None;
            self.copy_register(guard, reg, 1);
            self.guard = Some((guard, negated));
        }
        self.apply(two(move |t, c| combine(t, c) & 1), p, &[holds, third]);
        if let Some(q) = q {
            self.copy_register(q, other, 1);
        }
    }

    fn mov(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, value] = exactly(operands)?;
        match (target, value) {
            (Operand::Vector(parts), _) => {
                op.ty()?;
                op.finish()?;
                let s = self.source(value)?;
                let targets =
                    parts.iter().map(|part| self.target_bits(part)).collect::<Result<Vec<_>, _>>()?;
                // a part may go where the whole came from
                let whole = self.register();
                self.copy_register(whole, s, 64);
                let bits = targets.iter().map(|&(_, bits)| bits).min().unwrap_or(0);
                for (place, &(d, _)) in targets.iter().enumerate() {
                    let down = bits * place as u32;
                    self.apply(one(move |a| a >> down & mask(bits)), d, &[whole]);
                }
                Ok(())
            }
            (_, Operand::Vector(parts)) => {
                let bits = op.ty()?.bits() / parts.len().max(1) as u32;
                op.finish()?;
                let d = self.target(target)?;
                let parts = parts.iter().map(|part| self.source(part)).collect::<Result<Vec<_>, _>>()?;
                match parts[..] {
                    [a, b] => {
                        self.apply(two(move |a, b| a & mask(bits) | (b & mask(bits)) << bits), d, &[a, b])
                    }
                    [a, b, c, e] => {
                        let part = move |x: u64, place: u32| (x & mask(bits)) << (bits * place);
                        let all = move |a, b, c, e| part(a, 0) | part(b, 1) | part(c, 2) | part(e, 3);
                        self.apply(four(all), d, &[a, b, c, e]);
                    }
                    _ => return Err("two or four parts expected".into()),
                }
                Ok(())
            }
            (_, Operand::Name(name, 0)) if name.starts_with("%clock") || name.starts_with("%globaltimer") => {
                let bits = op.ty()?.bits();
                op.finish()?;
                let d = self.target(target)?;
                self.push(Op::Clock { d, bits });
                Ok(())
            }
            _ => self.arithmetic(op, operands),
        }
    }

    fn convert_address(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, address] = exactly(operands)?;
        let to = op.take("to");
        let space = op.take_some(Space::named).ok_or("a space expected")?;
        let bits = op.ty()?.bits();
        op.finish()?;
        let (d, s) = (self.target(target)?, self.source(address)?);
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => 0,
        };
        self.apply(
            match to {
                true => one(move |a| a.wrapping_sub(window) & mask(bits)),
                false => one(move |a| a.wrapping_add(window) & mask(bits)),
            },
            d,
            &[s],
        );
        Ok(())
    }

    /// Sums with the carry of the sum before: all of a thread's carries are one register.
    fn with_carry(&mut self, op: &mut Opcode<'_>, operands: &[Operand], reads: bool) -> Done {
        let sets = op.take("cc");
        let (low, high) = (op.take("lo"), op.take("hi"));
        let ty = op.ty()?;
        op.finish()?;
        let bits = ty.bits();
        let [target, sources @ ..] = operands else { return Err("operands expected".into()) };
        let d = self.target(target)?;
        let mut s = sources.iter().map(|s| self.source(s)).collect::<Result<Vec<_>, _>>()?;
        let product = op.name.starts_with("mad");
        if s.len() != if product { 3 } else { 2 } {
            return Err("another number of operands expected".into());
        }
        if product {
            if low == high {
                return Err("`.lo` or `.hi` expected".into());
            }
            let times = self.register();
            let part = move |a, b| {
                ((value(a, ty) * value(b, ty)) >> if high { bits } else { 0 }) as u64 & mask(bits)
            };
            self.apply(two(part), times, &[s[0], s[1]]);
            s = vec![times, s[2]];
        }
        let carry = self.carry();
        let before = if reads { carry } else { self.constant(Constant::Bits(0)) };
        let less = op.name.starts_with("sub");
        let total = move |a: u64, b: u64, c: u64| {
            let (a, b, c) = (i128::from(a & mask(bits)), i128::from(b & mask(bits)), i128::from(c));
            if less { a - b - c } else { a + b + c }
        };
        let sum = self.register();
        self.apply(three(move |a, b, c| total(a, b, c) as u64 & mask(bits)), sum, &[s[0], s[1], before]);
        if sets {
            let lost = move |a, b, c| u64::from(total(a, b, c) >> bits != 0);
            self.apply(three(lost), carry, &[s[0], s[1], before]);
        }
        self.copy_register(d, sum, bits);
        Ok(())
    }

    fn call(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        op.take("uni");
        op.finish()?;
        let (results, rest) = match operands {
            [Operand::List(results), rest @ ..] => (&results[..], rest),
            rest => (&[][..], rest),
        };
        let (name, params) = match rest {
            [Operand::Name(name, 0)] => (name, &[][..]),
            [Operand::Name(name, 0), Operand::List(params)] => (name, &params[..]),
            _ => return Err("calls of functions by name alone are known here".into()),
        };
        let mut variables = |list: &[Operand]| {
            let variable = |operand: &Operand| match operand {
                Operand::Name(name, 0) => match self.find(name) {
                    Some(symbol @ Symbol::Variable { .. }) => Ok(symbol),
                    _ => Err(format!("`{name}` is no parameter")),
                },
                other => Err(format!("{other:?} is no parameter")),
            };
            list.iter().map(variable).collect::<Result<Vec<_>, _>>()
        };
        let (results, params) = (variables(results)?, variables(params)?);
        self.inline(name, results, params)
    }
}

/// The constant, `offset` bytes further.
fn shifted(constant: Constant, offset: i64) -> Constant {
    match constant {
        Constant::Bits(bits) => Constant::Bits(bits.wrapping_add_signed(offset)),
        Constant::Variable(index, at) => Constant::Variable(index, at.wrapping_add(offset)),
        Constant::DynamicShared(at) => Constant::DynamicShared(at.wrapping_add(offset)),
        Constant::Params(at) => Constant::Params(at.wrapping_add(offset)),
        special @ Constant::Special(..) => special,
    }
}

//! Statements to code: names become numbers, functions are inlined.

use std::collections::{HashMap, HashSet};

use super::code::{Collective, Constant, Extent, Inst, Kernel, Op, Reg, Special};
use super::memory::SHARED_START;
use super::parse::{Function, Instruction, Statement, Text, Variable};
use super::types::Space;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Symbol {
    Register { reg: Reg, bits: u32 },
    Variable { space: Space, address: Constant },
    Label(usize),
    Targets(Vec<usize>),
}

/// Free bytes between shared variables, so that running over the end of one is noticed.
const GAP: u64 = 16;

/// A kernel while its code is being made.
pub struct Lowering<'t> {
    text: &'t Text,
    pub code: Vec<Inst>,
    registers: Reg,
    constants: HashMap<Constant, Reg>,
    scopes: Vec<HashMap<String, Symbol>>,
    /// Where each label is in the code.
    labels: Vec<usize>,
    shared: HashMap<String, u64>,
    extents: Vec<Extent>,
    shared_end: u64,
    dynamic_align: u64,
    local: u64,
    pub granule: u64,
    /// The carry of sums, if any is used.
    carry: Option<Reg>,
    /// The functions being inlined, and where each returns to.
    calls: Vec<(String, usize)>,
    /// Of the instruction at hand.
    pub line: u32,
    pub guard: Option<(Reg, bool)>,
}

/// Makes the code of `entry`.
pub fn lower(text: &Text, entry: &Function) -> Result<Kernel, String> {
    let mut lowering = Lowering {
        text,
        code: Vec::new(),
        registers: 0,
        constants: HashMap::new(),
        scopes: vec![HashMap::new()],
        labels: Vec::new(),
        shared: HashMap::new(),
        extents: Vec::new(),
        shared_end: SHARED_START,
        dynamic_align: 1,
        local: 0,
        granule: 16,
        carry: None,
        calls: Vec::new(),
        line: 0,
        guard: None,
    };
    let mut params = 0_u64;
    for param in &entry.params {
        params = params.next_multiple_of(param.align.max(1));
        let address = Constant::Params(params as i64);
        lowering.define(&param.name, Symbol::Variable { space: Space::Param, address });
        params += param.size;
    }
    let Some(body) = &entry.body else { return Err("the kernel is declared and not defined".into()) };
    lowering.block(body)?;
    lowering.guard = None;
    lowering.push(Op::Exit);
    lowering.resolve()?;
    let warpgroups = note_sums(&mut lowering.code);
    let constants = lowering.constants.into_iter().map(|(constant, reg)| (reg, constant)).collect();
    Ok(Kernel {
        code: lowering.code,
        registers: lowering.registers as usize,
        constants,
        params,
        shared: lowering.extents,
        shared_end: lowering.shared_end,
        granule: lowering.granule,
        local: lowering.local.next_multiple_of(16),
        threads: entry.threads,
        dynamic_align: lowering.dynamic_align,
        warpgroups,
    })
}

/// Notes which instructions access registers in which products of warpgroups add up; whether there are such.
fn note_sums(code: &mut [Inst]) -> bool {
    let products = code.iter().filter_map(|inst| match &inst.op {
        Op::Warpgroup(Collective::Multiply(product)) => Some(&product.d),
        _ => None,
    });
    let sums: HashSet<Reg> = products.flatten().copied().collect();
    for inst in code {
        inst.sums = inst.op.registers();
        inst.sums.retain(|reg| sums.contains(reg));
    }
    !sums.is_empty()
}

impl Lowering<'_> {
    /// Labels become places in the code.
    fn resolve(&mut self) -> Result<(), String> {
        if self.labels.contains(&usize::MAX) {
            return Err("a branch to a label that is nowhere".into());
        }
        for inst in &mut self.code {
            match &mut inst.op {
                Op::Branch(target) => *target = self.labels[*target],
                Op::BranchTable { targets, .. } => {
                    targets.iter_mut().for_each(|target| *target = self.labels[*target]);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn define(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), symbol);
        }
    }

    /// The statements of a pair of braces, whose names end with it.
    fn block(&mut self, statements: &[Statement]) -> Result<(), String> {
        self.scopes.push(HashMap::new());
        for statement in statements {
            if let Statement::Label(name) = statement {
                let label = self.label();
                self.define(name, Symbol::Label(label));
            }
        }
        for statement in statements {
            match statement {
                Statement::Label(name) => {
                    if let Some(Symbol::Label(label)) = self.find(name) {
                        self.here(label);
                    }
                }
                Statement::Registers(name, ty, count) => {
                    let bits = ty.bits();
                    for index in 0..count.unwrap_or(1) {
                        let reg = self.register();
                        let name = if count.is_some() { format!("{name}{index}") } else { name.clone() };
                        self.define(&name, Symbol::Register { reg, bits });
                    }
                }
                Statement::Variable(variable) => {
                    let symbol = self.variable(variable)?;
                    self.define(&variable.name, symbol);
                }
                Statement::Targets(name, labels) => {
                    let targets = labels.iter().map(|label| match self.find(label) {
                        Some(Symbol::Label(label)) => Ok(label),
                        _ => Err(format!("no label `{label}`")),
                    });
                    let targets = targets.collect::<Result<_, _>>()?;
                    self.define(name, Symbol::Targets(targets));
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
                Statement::Block(inner) => self.block(inner)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    /// An instruction that cannot be translated becomes a trap, for it may never be reached.
    fn instruction(&mut self, instruction: &Instruction) -> Result<(), String> {
        self.line = instruction.line;
        self.guard = None;
        if let Some((name, negated)) = &instruction.guard {
            let Some(Symbol::Register { reg, .. }) = self.find(name) else {
                return Err(format!("line {}: no predicate `{name}`", self.line));
            };
            self.guard = Some((reg, *negated));
        }
        let before = self.code.len();
        if let Err(reason) = self.translate(instruction) {
            self.code.truncate(before);
            self.push(Op::Unknown(format!("`{}`: {reason}", instruction.opcode)));
        }
        Ok(())
    }

    /// A variable that a function declares, or that a parameter of a call is.
    fn variable(&mut self, variable: &Variable) -> Result<Symbol, String> {
        let space = match variable.space {
            Space::Shared => return Ok(self.shared(variable)),
            Space::Local | Space::Param => Space::Local,
            _ => return Err(format!("`{}` cannot be declared inside a function", variable.name)),
        };
        self.local = self.local.next_multiple_of(variable.align.max(1));
        let address = Constant::Bits(self.local);
        self.local += variable.size;
        Ok(Symbol::Variable { space, address })
    }

    fn shared(&mut self, variable: &Variable) -> Symbol {
        let space = Space::Shared;
        if variable.size == 0 {
            self.dynamic_align = self.dynamic_align.max(variable.align);
            return Symbol::Variable { space, address: Constant::DynamicShared(0) };
        }
        // an inlined function has its shared variables once
        let name = format!("{} {}", self.calls.last().map_or("", |(name, _)| name), variable.name);
        let start = *self.shared.entry(name).or_insert_with(|| {
            let start = self.shared_end.next_multiple_of(variable.align.max(1));
            self.extents.push(Extent { start, end: start + variable.size });
            self.shared_end = start + variable.size + GAP;
            start
        });
        Symbol::Variable { space, address: Constant::Bits(start) }
    }

    /// What `name` stands for, from the innermost scope outwards, then in the module.
    pub fn find(&mut self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(symbol.clone());
        }
        let text = self.text;
        let index = text.variables.iter().position(|variable| variable.name == name)?;
        let variable = &text.variables[index];
        match variable.space {
            Space::Shared => {
                let caller = std::mem::take(&mut self.calls);
                let symbol = self.shared(variable);
                self.calls = caller;
                Some(symbol)
            }
            space => Some(Symbol::Variable { space, address: Constant::Variable(index, 0) }),
        }
    }

    pub fn push(&mut self, op: Op) {
        self.code.push(Inst { line: self.line, guard: self.guard, op, sums: Vec::new() });
    }

    /// The same, as the last thing that is done for an instruction.
    pub fn emit(&mut self, op: Op) -> Result<(), String> {
        self.push(op);
        Ok(())
    }

    pub fn register(&mut self) -> Reg {
        self.registers += 1;
        self.registers - 1
    }

    /// The register that holds `constant`.
    pub fn constant(&mut self, constant: Constant) -> Reg {
        if let Some(&reg) = self.constants.get(&constant) {
            return reg;
        }
        let reg = self.register();
        self.constants.insert(constant, reg);
        reg
    }

    /// The register of the carry, one for all sums.
    pub fn carry(&mut self) -> Reg {
        let reg = self.carry.unwrap_or_else(|| self.register());
        self.carry = Some(reg);
        reg
    }

    pub fn label(&mut self) -> usize {
        self.labels.push(usize::MAX);
        self.labels.len() - 1
    }

    /// The label is here.
    pub fn here(&mut self, label: usize) {
        self.labels[label] = self.code.len();
    }

    /// Returns from the innermost function, or ends the thread.
    pub fn leave(&mut self) {
        match self.calls.last() {
            Some(&(_, label)) => self.push(Op::Branch(label)),
            None => self.push(Op::Exit),
        }
    }

    /// Puts the body of the function `name` here. Its parameters and results are the variables of the caller.
    pub fn inline(&mut self, name: &str, results: Vec<Symbol>, params: Vec<Symbol>) -> Result<(), String> {
        let text = self.text;
        if self.calls.iter().any(|(caller, _)| caller == name) {
            return Err(format!("`{name}` calls itself"));
        }
        match name {
            "__assertfail" => return self.emit(Op::Trap("an assertion failed".into())),
            "vprintf" => return self.emit(Op::Trap("the kernel prints".into())),
            _ => {}
        }
        let function = text.functions.get(name).ok_or_else(|| format!("no function `{name}`"))?;
        let Some(body) = &function.body else {
            return Err(format!("`{name}` is declared and not defined, so that no driver loads the module"));
        };
        if results.len() != function.results.len() || params.len() != function.params.len() {
            return Err(format!("`{name}` takes other parameters"));
        }
        let (line, guard) = (self.line, self.guard.take());
        let end = self.label();
        if let Some((reg, negated)) = guard {
            self.guard = Some((reg, !negated));
            self.push(Op::Branch(end));
        }
        let formal = function.results.iter().chain(&function.params).map(|variable| variable.name.clone());
        let scope = formal.zip(results.into_iter().chain(params)).collect();
        let scopes = std::mem::replace(&mut self.scopes, vec![scope]);
        self.calls.push((name.to_owned(), end));
        let done = self.block(body);
        self.calls.pop();
        self.scopes = scopes;
        self.here(end);
        (self.line, self.guard) = (line, guard);
        done
    }
}

/// The special register of that name.
pub fn special(name: &str) -> Option<Constant> {
    let (name, part) = match name.rsplit_once('.') {
        Some((name, "x")) => (name, 0),
        Some((name, "y")) => (name, 1),
        Some((name, "z")) => (name, 2),
        Some(_) => return None,
        None => (name, 0),
    };
    let special = match name {
        "%tid" => Special::Thread,
        "%ntid" => Special::BlockSize,
        "%ctaid" => Special::Block,
        "%nctaid" => Special::GridSize,
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::MaskEqual,
        "%lanemask_lt" => Special::MaskBelow,
        "%lanemask_le" => Special::MaskUpTo,
        "%lanemask_ge" => Special::MaskFrom,
        "%lanemask_gt" => Special::MaskAbove,
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        "%total_smem_size" => Special::SharedSize,
        "%smid" | "%gridid" | "%cluster_ctaid" | "%cluster_ctarank" | "%is_explicit_cluster" => Special::Zero,
        "%nsmid" | "%cluster_nctaid" | "%cluster_nctarank" => Special::One,
        "WARP_SZ" => return Some(Constant::Bits(32)),
        _ => return None,
    };
    Some(Constant::Special(special, part))
}

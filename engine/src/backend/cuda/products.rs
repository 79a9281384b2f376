//! Matrix products, in the form of activations that each takes.

use braise_kernels::cuda::ops::{Epilogue, ExpertsOf, Matmul, Matvec, Ordered, Q8_BYTES, Tiles, takes_q8};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::quant::Type;

use super::pass::Pass;
use super::{TENSOR_CORES, are_few, narrow};
use crate::model::{ExpertMatrix, Weight};

/// Activations in all forms, rows of whatever length; those that were asked for are there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Acts {
    pub(super) f32: Address,
    pub(super) q8: Address,
    pub(super) bf16: Address,
}

impl Acts {
    /// Those behind the `first` rows, where rows have k values.
    pub(super) fn behind(self, first: usize, k: usize) -> Acts {
        let skip = |at: Address, row_bytes: usize| match at {
            Address::NONE => at,
            _ => at.offset((first * row_bytes) as u64),
        };
        Acts {
            f32: skip(self.f32, k * size_of::<f32>()),
            q8: skip(self.q8, k.div_ceil(32) * Q8_BYTES),
            bf16: skip(self.bf16, k * size_of::<u16>()),
        }
    }
}

/// One of these forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Few columns, of weights that are floats.
    F32,
    /// Few columns.
    Q8,
    /// Many columns.
    Bf16,
}

/// Some of these forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) f32: bool,
    pub(super) q8: bool,
    pub(super) bf16: bool,
}

impl Forms {
    pub(super) const NONE: Forms = Forms { f32: false, q8: false, bf16: false };
    pub(super) const Q8: Forms = Forms { q8: true, ..Forms::NONE };

    pub(super) fn with(self, other: Forms) -> Forms {
        Forms { f32: self.f32 | other.f32, q8: self.q8 | other.q8, bf16: self.bf16 | other.bf16 }
    }

    pub(super) fn without(self, other: Forms) -> Forms {
        Forms { f32: self.f32 & !other.f32, q8: self.q8 & !other.q8, bf16: self.bf16 & !other.bf16 }
    }
}

impl From<Form> for Forms {
    fn from(form: Form) -> Forms {
        Forms { f32: form == Form::F32, q8: form == Form::Q8, bf16: form == Form::Bf16 }
    }
}

/// The form that few columns have for weights of this type.
pub(super) fn few_form(ty: Type) -> Form {
    if takes_q8(ty) { Form::Q8 } else { Form::F32 }
}

/// Where products go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Results {
    pub(super) at: Address,
    /// Distance of columns.
    pub(super) stride: usize,
}

impl Pass<'_> {
    /// The form that `weight` takes of n columns.
    pub(super) fn form(&self, weight: &Weight, n: usize) -> Form {
        let many = !are_few(n) && self.device.properties().compute >= TENSOR_CORES;
        if many && weight.cols().is_multiple_of(32) { Form::Bf16 } else { few_form(weight.matmul.weights()) }
    }

    /// The product of `weight` and n columns in the form that [`Pass::form`] says.
    pub(super) fn multiply(
        &mut self,
        weight: &Weight,
        acts: Acts,
        n: usize,
        epilogue: Epilogue,
        y: Results,
    ) -> Result<(), Error> {
        let launch = match self.form(weight, n) {
            Form::Bf16 => self.matmul(weight, acts, n, epilogue, y)?.on(self.device.properties()).launch(),
            Form::F32 | Form::Q8 => self.matvec(weight, acts, n, epilogue, y)?.launch(),
        };
        self.launch(launch)
    }

    /// The same in the form of many columns.
    pub(super) fn matmul(
        &self,
        weight: &Weight,
        acts: Acts,
        n: usize,
        epilogue: Epilogue,
        y: Results,
    ) -> Result<Matmul, Error> {
        let Matvec { ty, w: [w, _], k, rows, columns, epilogue, y, y_stride, .. } =
            self.matvec(weight, acts, n, epilogue, y)?;
        Ok(Matmul {
            ty,
            w,
            x: acts.bf16,
            k,
            rows,
            columns,
            experts: None,
            epilogue,
            y,
            y_stride,
            tiles: Tiles::Warps,
        })
    }

    /// The same in the form of few columns, however many there are.
    pub(super) fn matvec(
        &self,
        weight: &Weight,
        acts: Acts,
        n: usize,
        epilogue: Epilogue,
        y: Results,
    ) -> Result<Matvec, Error> {
        let ty = weight.matmul.weights();
        Ok(Matvec {
            ty,
            w: [self.weights.matrix(self.model, weight)?, Default::default()],
            x: if few_form(ty) == Form::Q8 { acts.q8 } else { acts.f32 },
            k: narrow(weight.cols())?,
            rows: narrow(weight.rows())?,
            columns: narrow(n)?,
            experts: None,
            epilogue,
            y: y.at,
            y_stride: narrow(y.stride)?,
            q8: Address::NONE,
            then: None,
        })
    }

    /// The product of each token's experts, `rows` of each, with activations that `share` of its columns have in common.
    pub(super) fn multiply_experts(
        &mut self,
        matrix: &ExpertMatrix,
        acts: Acts,
        (rows, share): (usize, usize),
        epilogue: Epilogue,
        y: Results,
    ) -> Result<(), Error> {
        let Form::Bf16 = self.form(&matrix.weight, self.n) else {
            let matvec = self.matvec_experts(matrix, acts, (rows, share), epilogue, y)?;
            return self.launch(matvec.launch());
        };
        let chosen = self.buffers.experts;
        let weight = &matrix.weight;
        let ordered = Ordered {
            order: chosen.order,
            starts: chosen.starts,
            experts: narrow(weight.rows() / matrix.stride)?,
            rows: narrow(matrix.stride)?,
            share: narrow(share)?,
        };
        let w = self.weights.expert_matrix(self.model, matrix)?;
        let matmul = self.matmul(weight, acts, self.n * self.used, epilogue, y)?;
        let matmul = Matmul { w, rows: narrow(rows)?, experts: Some(ordered), ..matmul };
        self.launch(matmul.on(self.device.properties()).launch())
    }

    /// The same in the form of few columns.
    pub(super) fn matvec_experts(
        &self,
        matrix: &ExpertMatrix,
        acts: Acts,
        (rows, share): (usize, usize),
        epilogue: Epilogue,
        y: Results,
    ) -> Result<Matvec, Error> {
        let experts = ExpertsOf {
            ids: self.buffers.experts.chosen,
            rows: narrow(matrix.stride)?,
            share: narrow(share)?,
        };
        let matvec = self.matvec(&matrix.weight, acts, self.n * self.used, epilogue, y)?;
        let w = [self.weights.expert_matrix(self.model, matrix)?, Default::default()];
        Ok(Matvec { w, rows: narrow(rows)?, experts: Some(experts), ..matvec })
    }
}

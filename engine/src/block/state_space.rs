//! Selective state spaces, which read a sequence token by token with a memory of fixed size.

/// A selective state space (Mamba: Gu and Dao 2023, arXiv 2312.00752; Mamba-2: Dao and Gu 2024, arXiv 2405.21060). Of each
/// channel, with a state `s` of `d_state` values, and `A` of its head:
///
/// ```text
/// (x, z, ...) = in(input);  x = silu(conv(x))
/// s = exp(dt A) s + dt x B;  y = s C + D x             dt = softplus(...), of a head; B and C of a group of heads
/// result = out(norm(y silu(z)))
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateSpace {
    /// Channels, a multiple of [`StateSpace::UNIT`].
    pub channels: usize,
    /// Tokens that the convolution covers, the last one included.
    pub width: usize,
    /// Values of a channel's state.
    pub d_state: usize,
    /// Heads that the channels form: each has one dt and one D.
    pub n_head: usize,
    /// Groups that the heads form: each has one B and one C.
    pub n_group: usize,
    /// Where dt, B and C come from.
    pub kind: StateSpaceKind,
}

/// The two generations of state spaces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StateSpaceKind {
    /// Each channel is a head; `A` has a number for each value of the state. dt, B and C come from x, dt through `rank`
    /// values. If `eps` is there, those, B and C are normalized by their root mean square (Falcon Mamba, Jamba).
    One {
        /// Values that the channels' dt are made of.
        rank: usize,
        /// Added to the mean square.
        eps: Option<f32>,
    },
    /// A head has one number `A`. dt, B and C come from the layer's input, B and C through the convolution. If `eps` is
    /// there, the result is normalized by the root mean square of each group.
    Two {
        /// Added to the mean square.
        eps: Option<f32>,
    },
}

impl StateSpace {
    /// Channels that are computed together.
    pub const UNIT: usize = 32;

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.channels / self.n_head
    }

    /// Values of all groups' B, which are as many as those of C.
    pub fn group_values(&self) -> usize {
        self.n_group * self.d_state
    }

    /// Channels that go through the convolution: x, and B and C where they do.
    pub fn conv_channels(&self) -> usize {
        match self.kind {
            StateSpaceKind::One { .. } => self.channels,
            StateSpaceKind::Two { .. } => self.channels + 2 * self.group_values(),
        }
    }

    /// Rows of the first matrix.
    pub fn inputs(&self) -> usize {
        match self.kind {
            StateSpaceKind::One { .. } => 2 * self.channels,
            StateSpaceKind::Two { .. } => self.channels + self.conv_channels() + self.n_head,
        }
    }

    /// Where the convolution's channels and z begin among [`StateSpace::inputs`].
    pub fn conv_and_gate(&self) -> (usize, usize) {
        match self.kind {
            StateSpaceKind::One { .. } => (0, self.channels),
            StateSpaceKind::Two { .. } => (self.channels, 0),
        }
    }

    /// Values of B, C and what dt is made of, where they come from x.
    pub fn selected(&self) -> usize {
        match self.kind {
            StateSpaceKind::One { rank, .. } => rank + 2 * self.d_state,
            StateSpaceKind::Two { .. } => 2 * self.group_values(),
        }
    }
}

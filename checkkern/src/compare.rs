//! The comparator: what a result may be, and whether it is that.

/// What a result may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Want {
    /// This number, to the bit, but that zeros of both signs are one: every order of summation gives it.
    Exactly(f32),
    /// A number not farther than `bound` from `exact`.
    Within {
        /// The result of exact arithmetic.
        exact: f64,
        /// What rounding may add, 0 or more.
        bound: f64,
    },
    /// An infinity or a NaN.
    NotFinite {
        /// A NaN, nothing else.
        nan: bool,
    },
}

impl Want {
    /// Whether `got` is what is wanted. Everything that is not shown to be right is wrong, so that a NaN, in the result
    /// or in the bound, is.
    pub fn accepts(self, got: f32) -> bool {
        match self {
            Want::Exactly(want) => got == want,
            Want::Within { exact, bound } => (f64::from(got) - exact).abs() <= bound,
            Want::NotFinite { nan } => !got.is_finite() && (got.is_nan() || !nan),
        }
    }
}

/// The same bits; of NaN only that it is one, because its payload depends on the order of operands.
pub fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

    #[test]
    fn exactly_takes_no_neighbour() {
        for want in [1.0f32, -3.5, 1e-38, 65504.0] {
            let want_exactly = Want::Exactly(want);
            assert!(want_exactly.accepts(want));
            for bad in [-want, want.next_up(), want.next_down(), 2.0 * want, 0.0].iter().chain(&NOT_FINITE) {
                assert!(!want_exactly.accepts(*bad), "{bad} for {want}");
            }
        }
        assert!(Want::Exactly(0.0).accepts(-0.0));
        assert!(!Want::Exactly(0.0).accepts(f32::from_bits(1)), "the smallest number is not zero");
    }

    #[test]
    fn within_ends_at_the_bound() {
        let bound = 0.25;
        for exact in [500.0, -500.0, 0.0] {
            let want = Want::Within { exact, bound };
            let [low, high] = [exact - bound, exact + bound].map(|x| x as f32);
            for good in [low, high, exact as f32] {
                assert!(want.accepts(good), "{good} for {exact}");
            }
            for bad in [low.next_down(), high.next_up(), -1.0 - exact as f32].iter().chain(&NOT_FINITE) {
                assert!(!want.accepts(*bad), "{bad} for {exact}");
            }
        }
        // both negative, and far apart
        assert!(!Want::Within { exact: -1.0, bound }.accepts(-500.0));
    }

    #[test]
    fn within_no_bound_takes_the_number_alone() {
        let want = Want::Within { exact: 3.0, bound: 0.0 };
        assert!(want.accepts(3.0) && !want.accepts(3.0f32.next_up()));
    }

    #[test]
    fn what_is_unknown_is_wrong() {
        for (exact, bound) in [(f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0), (1.0, -1.0)] {
            assert!(!Want::Within { exact, bound }.accepts(1.0), "{exact} {bound}");
        }
        assert!(!Want::Exactly(f32::NAN).accepts(f32::NAN));
    }

    #[test]
    fn not_finite_is_told_from_a_number_and_nan_from_infinity() {
        for want in [Want::NotFinite { nan: false }, Want::NotFinite { nan: true }] {
            assert!(want.accepts(f32::NAN));
            assert!(!want.accepts(0.0) && !want.accepts(f32::MAX));
        }
        assert!(Want::NotFinite { nan: false }.accepts(f32::NEG_INFINITY));
        assert!(!Want::NotFinite { nan: true }.accepts(f32::INFINITY));
    }

    #[test]
    fn same_tells_bits_apart() {
        assert!(same(1.0, 1.0) && same(f32::NAN, -f32::NAN) && same(f32::INFINITY, f32::INFINITY));
        for (a, b) in [(0.0, -0.0), (1.0, -1.0), (1.0, 1.0f32.next_up()), (f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}

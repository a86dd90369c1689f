//! Tensors that go from one surface to another, as halves.

use half::f16;

use crate::inmem::Place;

impl Place {
    /// Copies the tensor from its place in one surface to its place `to` in another, whose rows may have
    /// another length.
    pub(super) fn copy(self, surface: &[f16], to: Place, other: &mut [f16]) {
        assert_eq!(self.numel(), to.numel(), "both places hold one tensor");
        let (mut from_rows, mut to_rows) = (self.row_starts(), to.row_starts());
        let (mut from, mut into) = (0..0, 0..0);
        loop {
            if from.is_empty() {
                from = from_rows.next().map_or(0..0, |start| start..start + self.columns);
            }
            if into.is_empty() {
                into = to_rows.next().map_or(0..0, |start| start..start + to.columns);
            }
            let run = from.len().min(into.len());
            if run == 0 {
                return;
            }
            other[into.start..into.start + run].copy_from_slice(&surface[from.start..from.start + run]);
            (from.start, into.start) = (from.start + run, into.start + run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: a copy out of the one and into the other, element by element in the tensor's order.
    #[test]
    fn a_tensor_goes_from_any_place_to_any_other() {
        let place = |rows, columns, first_row, first_column, stride| Place {
            first_row,
            rows,
            first_column,
            columns,
            stride,
        };
        let places = [
            place(12, 32, 1, 16, 80),
            place(8, 48, 0, 0, 48),
            place(1, 384, 3, 16, 512),
            place(384, 1, 0, 2, 16),
            place(6, 64, 2, 64, 128),
        ];
        let surface: Vec<f16> = (0..400 * 80).map(|i| f16::from_f32((i % 2039) as f32)).collect();
        for from in places {
            for to in places {
                let (mut copied, mut expected) = (vec![f16::NEG_ONE; 400 * 80], vec![f16::NEG_ONE; 400 * 80]);
                from.copy(&surface, to, &mut copied);
                for at in 0..384 {
                    let index = |p: Place| {
                        (p.first_row + at / p.columns) * p.stride + p.first_column + at % p.columns
                    };
                    expected[index(to)] = surface[index(from)];
                }
                assert_eq!(copied, expected, "{from:?} -> {to:?}");
            }
        }
    }
}

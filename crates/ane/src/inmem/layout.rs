//! Where every port lies in its surface.
//!
//! A tensor of n elements is stored as r rows of c columns, r * c = n, in the order of its elements: whatever
//! its shape, a reshape leads there and back, and no element is moved by itself. Rows are channels of the
//! surface `[1, channels, 1, columns]`. Tensors stand beside one another along the columns, as the projects in
//! the field pack activations and weights (maderix/ANE, autoresearch-ANE, rustane: `[1, IC, 1, SEQ + OC]`);
//! several that are not high stand on top of one another in a band of the width that they share.
//!
//! r and c are chosen, for a number of channels, so that the fewest elements are moved: those of the surface
//! itself, and those of each tensor once more for an op that brings it into shape. A tensor in the shape that
//! the program wants, `[1, r, 1, c]`, needs none. Then the number of channels is chosen by the same measure;
//! among equals by how many tensors keep their rows, which is how the kernels that ran on an M4 Max pack
//! theirs, and then by how short the longer axis is.

use std::collections::BTreeSet;

use mil::lint::Chip;

/// Every tensor begins and ends at a multiple of this many columns, and so does a surface: other last axes
/// were silently corrupted on an M4 Max (rustane, rule ANE-030).
pub const STEP: usize = 16;
/// The narrowest surface, in columns (ane crate, M1 to M5, rule ANE-029: error 0x1d below). Rows are multiples of
/// it, 128 bytes: nobody knows how far apart the engine takes the rows of others to lie, and a shift would be
/// silent.
pub const MIN_COLUMNS: usize = 64;
/// The smallest surface, in bytes (Orion, M4 Max, rule ANE-029: `[768, 16]` ran, less gave error 0x1d).
pub const MIN_BYTES: usize = 49_152;

/// Bytes of an element: surfaces hold fp16.
const ELEMENT_BYTES: usize = size_of::<half::f16>();

/// The largest surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurfaceLimits {
    /// The most channels.
    pub channels: usize,
    /// The most columns.
    pub columns: usize,
}

impl SurfaceLimits {
    /// Those of a chip: 65,536 channels everywhere; 16,384 columns on M1 to M3, 65,536 later (ANEForge,
    /// measured on M1, M2 and M5).
    pub fn of(chip: Chip) -> Self {
        SurfaceLimits { channels: 65_536, columns: if chip <= Chip::M3 { 16_384 } else { 65_536 } }
    }
}

/// A rectangle of a surface, which holds one tensor, row after row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The channel of the first row.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// The column of each row's first element.
    pub first_column: usize,
    /// Elements of the tensor in each row.
    pub columns: usize,
    /// Elements between the beginnings of two rows: the columns of the surface.
    pub stride: usize,
}

impl Place {
    /// The columns that it takes up, a multiple of [`STEP`].
    pub fn width(&self) -> usize {
        self.columns.next_multiple_of(STEP)
    }
}

/// A surface `[1, channels, 1, columns]` of fp16, channel after channel, without gaps between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surface {
    /// Rows.
    pub channels: usize,
    /// Elements of a row.
    pub columns: usize,
    /// One for each tensor, in the order in which they were given: bands from left to right, and from top to
    /// bottom in each band.
    pub places: Vec<Place>,
}

impl Surface {
    /// Its shape as a port of the packed program.
    pub fn shape(&self) -> [usize; 4] {
        [1, self.channels, 1, self.columns]
    }

    /// Elements, padding included.
    pub fn numel(&self) -> usize {
        self.channels * self.columns
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.numel() * ELEMENT_BYTES
    }

    /// Elements that belong to a tensor.
    pub fn used(&self) -> usize {
        self.places.iter().map(|place| place.rows * place.columns).sum()
    }

    /// The surface for tensors of `shapes` on which the fewest elements are moved; `None` when they fit none
    /// within `limits`.
    pub(super) fn lay_out(shapes: &[&[usize]], limits: SurfaceLimits) -> Option<Surface> {
        let tensors: Vec<Tensor> = shapes.iter().map(|shape| Tensor::new(shape)).collect();
        // Powers of two divide what transformers are made of; heights that the tensors have by nature, and
        // small multiples of them, leave tensors as they are.
        let mut heights: BTreeSet<usize> = (0..usize::BITS).map(|power| 1 << power).collect();
        for tensor in &tensors {
            heights.extend((1..=4).map(|times| times * tensor.natural.rows));
        }
        heights
            .into_iter()
            .take_while(|height| *height <= limits.channels)
            .flat_map(|height| [Share::Stacked, Share::Alone].map(|share| (height, share)))
            .filter_map(|(height, share)| of_height(&tensors, height, share, limits))
            .min_by_key(|(cost, _)| *cost)
            .map(|(_, surface)| surface)
    }
}

/// Rows and columns in which the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    rows: usize,
    columns: usize,
}

impl Form {
    /// The columns that it takes up.
    fn width(self) -> usize {
        self.columns.next_multiple_of(STEP)
    }
}

/// What a tensor is taken to cost of its band while its form is chosen; which holds is seen when all tensors
/// are placed, so both are tried.
#[derive(Debug, Clone, Copy)]
enum Share {
    /// Others like it stand above and below: its rows only.
    Stacked,
    /// None does: all of the band.
    Alone,
}

/// A tensor to be placed.
struct Tensor {
    numel: usize,
    /// Its last axis as columns, the product of the others as rows.
    natural: Form,
    /// Whether its shape is `[1, rows, 1, columns]`.
    is_plane: bool,
    /// The numbers of columns that it may be stored in, each a divisor of `numel`: multiples of [`STEP`] if
    /// there is one.
    columns: Vec<usize>,
}

impl Tensor {
    fn new(shape: &[usize]) -> Tensor {
        let numel: usize = shape.iter().product();
        let last = shape.last().copied().unwrap_or(1);
        let natural = Form { rows: numel / last, columns: last };
        let is_plane = matches!(shape, [1, _, 1, _]);
        let mut columns = divisors(numel);
        if numel.is_multiple_of(STEP) {
            columns.retain(|columns| columns.is_multiple_of(STEP));
        }
        Tensor { numel, natural, is_plane, columns }
    }

    /// How it is stored on a surface of `height` channels; `None` when no row is short enough.
    fn form(&self, height: usize, share: Share, limits: SurfaceLimits) -> Option<Form> {
        let forms = self.columns.iter().filter_map(|columns| {
            let form = Form { rows: self.numel / columns, columns: *columns };
            if form.rows > height || form.width() > limits.columns {
                return None;
            }
            let band = height * form.width();
            let room = match share {
                Share::Stacked => band / (height / form.rows),
                Share::Alone => band,
            };
            Some((room + self.moves(form), form.width(), form.rows, form))
        });
        forms.min_by_key(|(cost, width, rows, _)| (*cost, *width, *rows)).map(|(.., form)| form)
    }

    /// Elements that ops inside the program move to bring it into shape.
    fn moves(&self, form: Form) -> usize {
        let is_reshaped = !(self.is_plane && form == self.natural);
        let is_trimmed = form.width() != form.columns;
        (usize::from(is_reshaped) + usize::from(is_trimmed)) * self.numel
    }
}

/// What decides between surfaces; the first field counts most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// Elements of the surface, and those that ops inside the program move to bring tensors into shape: in
    /// sixty-fourths of the tensors' own, as smaller differences are not worth an unusual surface.
    moved: usize,
    /// Tensors whose rows are not those of the surface.
    refolded: usize,
    /// Of the surface.
    longer_axis: usize,
}

/// The tensors on a surface of `height` channels, and what it costs; `None` when it would be too wide.
fn of_height(
    tensors: &[Tensor],
    height: usize,
    share: Share,
    limits: SurfaceLimits,
) -> Option<(Cost, Surface)> {
    /// Tensors of one width, on top of one another.
    struct Band {
        width: usize,
        /// Rows that are taken.
        rows: usize,
    }
    let mut bands: Vec<Band> = Vec::new();
    let (mut moved, mut refolded) = (0, 0);
    // Form and first row of each, and the band that it is in: where a band begins is known when all of them are.
    let mut placed = Vec::new();
    for tensor in tensors {
        let form = tensor.form(height, share, limits)?;
        moved += tensor.moves(form);
        refolded += usize::from(form != tensor.natural);
        let room = |band: &Band| band.width == form.width() && band.rows + form.rows <= height;
        let at = bands.iter().position(room).unwrap_or_else(|| {
            bands.push(Band { width: form.width(), rows: 0 });
            bands.len() - 1
        });
        placed.push((form, bands[at].rows, at));
        bands[at].rows += form.rows;
    }
    let taken: usize = bands.iter().map(|band| band.width).sum();
    let least = MIN_BYTES.div_ceil(ELEMENT_BYTES).div_ceil(height).next_multiple_of(STEP);
    let stride = taken.max(least).next_multiple_of(MIN_COLUMNS);
    if stride > limits.columns {
        return None;
    }
    let places = placed
        .into_iter()
        .map(|(Form { rows, columns }, first_row, at)| {
            let first_column = bands[..at].iter().map(|band| band.width).sum();
            Place { first_row, rows, first_column, columns, stride }
        })
        .collect();
    let own: usize = tensors.iter().map(|tensor| tensor.numel).sum();
    let moved = 64 * (moved + height * stride) / own;
    let cost = Cost { moved, refolded, longer_axis: height.max(stride) };
    Some((cost, Surface { channels: height, columns: stride, places }))
}

/// Every divisor of `n`, in ascending order.
fn divisors(n: usize) -> Vec<usize> {
    let small: Vec<usize> = (1..=n.isqrt()).filter(|d| n.is_multiple_of(*d)).collect();
    let large = small.iter().rev().map(|d| n / d).filter(|d| d * d > n);
    small.iter().copied().chain(large).collect()
}

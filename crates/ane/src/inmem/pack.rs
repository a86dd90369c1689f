//! Programs with one input surface and one output surface.

use mil::{DType, Element, PortKind, Program};

use super::layout::{Place, Surface, SurfaceLimits};
use super::lower::{self, Sides};

/// Why a program cannot be packed, or data cannot be staged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PackError {
    /// The program computes in another type.
    #[error("the program is built for {found}, surfaces hold fp16; build it for Element::F16")]
    Element {
        /// MIL's name of the type.
        found: &'static str,
    },
    /// A port that has no place in a surface.
    #[error("port `{port}`: {problem}")]
    Port {
        /// Its name.
        port: String,
        /// Its type, and what it should be.
        problem: String,
    },
    /// No input, or no output.
    #[error("the program has no {0} port, and this route needs one")]
    NoPort(&'static str),
    /// The ports of one side are too many or too large.
    #[error(
        "the {side} ports hold {elements} elements, the largest is `{largest}` with {shape:?}; no surface of at \
         most {} channels by {} columns takes them; cut the program finer, or take fewer sequences or a \
         smaller vocabulary tile at a time",
        limits.channels,
        limits.columns
    )]
    NoRoom {
        /// `input` or `output`.
        side: &'static str,
        /// Of all ports together.
        elements: usize,
        /// The name of the largest port.
        largest: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What was allowed.
        limits: SurfaceLimits,
    },
    /// The packed program is not sound: a bug of this pass.
    #[error("packing: {0}")]
    Program(#[from] mil::Error),
    /// There is no such port.
    #[error("there is no port `{port}`; the program has {known}")]
    UnknownPort {
        /// What was asked for.
        port: String,
        /// What there is.
        known: String,
    },
    /// As many elements as the port does not have.
    #[error("port `{port}` is {shape:?}: it takes {} elements, was given {found}", shape.iter().product::<usize>())]
    Length {
        /// Its name.
        port: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements given.
        found: usize,
    },
    /// Memory that is not that of the surface.
    #[error("port `{port}`: its surface has {expected} bytes, was given {found} at an address that is {}",
        if *aligned { "even" } else { "odd; halves begin at even ones" })]
    SurfaceBytes {
        /// Its name.
        port: String,
        /// Bytes of the surface.
        expected: usize,
        /// Bytes given.
        found: usize,
        /// Whether they begin at a multiple of two.
        aligned: bool,
    },
}

/// A port of the program that was packed, and where it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedPort {
    /// As the program calls it.
    pub name: String,
    /// Which way it faces, and so in which surface it lies.
    pub kind: PortKind,
    /// Its shape in the program.
    pub shape: Vec<usize>,
    /// Its rectangle of the surface.
    pub place: Place,
}

/// A program in the form of this route, and where the ports of the original lie.
///
/// The packed program has one input, `a0`, and one output, `z0`. It takes each port of the original out of
/// `a0`, runs the original's statements, and joins their results to `z0`. Both the slices and the copies
/// ([`Packing::write`], [`Packing::read`]) follow the same declaration, the ports' [`Place`]s.
///
/// Pairs of ports that could share a buffer (`inout`) are not kept: two surfaces share nothing. Names inside
/// are new and neutral (rule ANE-043).
///
/// ```
/// use ane::{Packing, SurfaceLimits};
/// use half::f16;
/// use mil::{Builder, Element, lint::Chip};
///
/// let mut b = Builder::new(Element::F16);
/// let x = b.input("x", &[1, 64, 1, 512])?;
/// let w = b.input("w", &[1, 1, 32, 64])?;
/// let columns = b.reshape(x, &[1, 1, 64, 512])?;
/// let y = b.matmul(w, columns, false, false)?;
/// b.output("y", y)?;
/// let packing = Packing::new(&b.finish()?, SurfaceLimits::of(Chip::M4))?;
///
/// assert_eq!(packing.program().inputs().len(), 1);
/// let mut surface = vec![0_u8; packing.surface(mil::PortKind::Input).bytes()];
/// packing.write("w", &[0.5_f32; 32 * 64], &mut surface)?;
/// let mut back = vec![f16::ZERO; 32 * 64];
/// packing.read("w", &surface, &mut back)?;
/// assert_eq!(back[2047], f16::from_f32(0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Packing {
    program: Program,
    input: Surface,
    output: Surface,
    ports: Vec<PackedPort>,
}

impl Packing {
    /// Packs `program`, which may hold composites, into surfaces within `limits`.
    ///
    /// # Errors
    /// [`PackError::Element`] and [`PackError::Port`] when something is not fp16, a port is a scalar or
    /// there is none; [`PackError::NoRoom`] when a surface would be too large.
    pub fn new(program: &Program, limits: SurfaceLimits) -> Result<Packing, PackError> {
        if program.element() != Element::F16 {
            return Err(PackError::Element { found: program.element().dtype().mil_name() });
        }
        for port in program.ports() {
            let refused = if port.ty.dtype != DType::F16 {
                "surfaces hold fp16; cast inside the program"
            } else if port.ty.shape.is_empty() {
                "a surface holds no scalar; give it the shape [1]"
            } else {
                continue;
            };
            let problem = format!("it is {}; {refused}", port.ty);
            return Err(PackError::Port { port: port.name.to_owned(), problem });
        }
        let input = lay_out(program, PortKind::Input, limits)?;
        let output = lay_out(program, PortKind::Output, limits)?;
        let ports = program
            .ports()
            .zip(input.places.iter().chain(&output.places))
            .map(|(port, place)| PackedPort {
                name: port.name.to_owned(),
                kind: port.kind,
                shape: port.ty.shape.clone(),
                place: *place,
            })
            .collect();
        let program = lower::lower(program, Sides { input: &input, output: &output })?;
        Ok(Packing { program, input, output, ports })
    }

    /// The packed program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The surface of one side: `a0` for [`PortKind::Input`], `z0` for [`PortKind::Output`].
    pub fn surface(&self, kind: PortKind) -> &Surface {
        match kind {
            PortKind::Input => &self.input,
            PortKind::Output => &self.output,
        }
    }

    /// The original's ports, inputs first, in its order.
    pub fn ports(&self) -> &[PackedPort] {
        &self.ports
    }

    /// The original's port called `name`.
    ///
    /// # Errors
    /// [`PackError::UnknownPort`] with the names that exist.
    pub fn port(&self, name: &str) -> Result<&PackedPort, PackError> {
        self.ports.iter().find(|port| port.name == name).ok_or_else(|| PackError::UnknownPort {
            port: name.to_owned(),
            known: self.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

fn lay_out(program: &Program, kind: PortKind, limits: SurfaceLimits) -> Result<Surface, PackError> {
    let side = match kind {
        PortKind::Input => "input",
        PortKind::Output => "output",
    };
    let ports: Vec<_> = program.ports().filter(|port| port.kind == kind).collect();
    let Some(largest) = ports.iter().max_by_key(|port| port.ty.numel()) else {
        return Err(PackError::NoPort(side));
    };
    let shapes: Vec<&[usize]> = ports.iter().map(|port| port.ty.shape.as_slice()).collect();
    Surface::lay_out(&shapes, limits).ok_or_else(|| PackError::NoRoom {
        side,
        elements: ports.iter().map(|port| port.ty.numel()).sum(),
        largest: largest.name.to_owned(),
        shape: largest.ty.shape.clone(),
        limits,
    })
}

#[cfg(test)]
mod tests {
    use half::f16;
    use mil::{Builder, lint::Chip};

    use super::super::layout::STEP;
    use super::*;

    /// x [1, 64, 1, 128], gain [1, 64, 1, 1], w [1, 1, 32, 64] -> y = w (gain x), twice = 2 gain, back = -x.
    fn program() -> Program {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 64, 1, 128]).unwrap();
        let gain = b.input("gain", &[1, 64, 1, 1]).unwrap();
        let w = b.input("w", &[1, 1, 32, 64]).unwrap();
        let scaled = b.mul(x, gain).unwrap();
        let columns = b.reshape(scaled, &[1, 1, 64, 128]).unwrap();
        let y = b.matmul(w, columns, false, false).unwrap();
        let (twice, back) = (b.scale(gain, 2.0).unwrap(), b.scale(x, -1.0).unwrap());
        for (name, value) in [("y", y), ("twice", twice), ("back", back)] {
            b.output(name, value).unwrap();
        }
        b.finish().unwrap()
    }

    /// A value for every element of every input that no neighbour has.
    fn values(port: &PackedPort) -> Vec<f32> {
        let numel: usize = port.shape.iter().product();
        (0..numel).map(|at| ((at * 37 + port.name.len() * 11) % 509) as f32 / 128.0 - 2.0).collect()
    }

    /// Every output of the original, by way of the surfaces.
    fn run(packing: &Packing) -> Vec<Vec<f32>> {
        let mut surface = vec![0_u8; packing.input.bytes()];
        for port in packing.ports.iter().filter(|port| port.kind == PortKind::Input) {
            packing.write(&port.name, &values(port), &mut surface).unwrap();
        }
        let a0: Vec<f32> = bytemuck::cast_slice::<u8, f16>(&surface).iter().map(|v| v.to_f32()).collect();
        let z0 =
            sim::run(&packing.program, &sim::Profile::m4(), &[("a0", &a0)]).unwrap().remove("z0").unwrap();
        let z0: Vec<f16> = z0.into_iter().map(f16::from_f32).collect();
        let outputs = packing.ports.iter().filter(|port| port.kind == PortKind::Output);
        outputs
            .map(|port| {
                let mut values = vec![0.0; port.shape.iter().product()];
                packing.read(&port.name, bytemuck::cast_slice(&z0), &mut values).unwrap();
                values
            })
            .collect()
    }

    /// `place` moved by one step of columns within its surface, to whichever side there is room.
    fn beside(place: &Place) -> Place {
        let to_the_right = place.first_column + place.width() + STEP <= place.stride;
        let first_column = if to_the_right { place.first_column + STEP } else { place.first_column - STEP };
        Place { first_column, ..*place }
    }

    /// Slices and copies follow one declaration. Where they did not, by as little as one step of 16 columns for
    /// one port, results would show it: so the comparisons with the unpacked program can fail.
    #[test]
    fn a_place_that_only_one_side_knows_is_noticed() {
        let original = program();
        let packing = Packing::new(&original, SurfaceLimits::of(Chip::M4)).unwrap();
        let expected = run(&packing);
        for at in 0..packing.ports.len() {
            let mut faulty = packing.clone();
            faulty.ports[at].place = beside(&packing.ports[at].place);
            assert_ne!(run(&faulty), expected, "the copies of `{}`", packing.ports[at].name);
        }
        for at in 0..packing.input.places.len() {
            let mut input = packing.input.clone();
            input.places[at] = beside(&packing.input.places[at]);
            let program = lower::lower(&original, Sides { input: &input, output: &packing.output }).unwrap();
            let faulty = Packing { program, ..packing.clone() };
            assert_ne!(run(&faulty), expected, "the slice of `{}`", packing.ports[at].name);
        }
    }

    #[test]
    fn pairs_of_ports_are_not_kept() {
        let mut b = Builder::new(Element::F16);
        let old = b.input("old", &[1, 64, 1, 64]).unwrap();
        let new = b.scale(old, 2.0).unwrap();
        b.output("new", new).unwrap();
        b.inout("old", "new").unwrap();
        let packing = Packing::new(&b.finish().unwrap(), SurfaceLimits::of(Chip::M4)).unwrap();
        assert!(packing.program().inouts().is_empty());
    }
}

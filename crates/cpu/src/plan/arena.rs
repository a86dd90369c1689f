//! One arena for all intermediate values: those alive at the same time get different places.

use super::Step;
use super::memory::Storage;

/// Elements to which places are aligned: 64 bytes, a cache line.
const ALIGN: usize = 16;

/// Gives every [`Storage::Temp`] its offset; the arena's length in elements.
///
/// The largest first, each at the lowest offset where it meets no placed neighbour in time: simple,
/// and within a few per cent of the sum of what is alive at the worst moment.
pub(crate) fn place(storages: &mut [Storage], steps: &[Step]) -> usize {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; storages.len()];
    for (at, step) in steps.iter().enumerate() {
        for id in step.reads.iter().chain(&step.writes) {
            let life = lives[id.0].get_or_insert((at, at));
            life.1 = at;
        }
    }
    let mut order: Vec<usize> = (0..storages.len())
        .filter(|at| matches!(storages[*at], Storage::Temp { .. }) && lives[*at].is_some())
        .collect();
    let len_of = |storage: &Storage| match storage {
        Storage::Temp { len, .. } => len.next_multiple_of(ALIGN),
        _ => 0,
    };
    order.sort_by_key(|at| std::cmp::Reverse(len_of(&storages[*at])));
    let mut placed: Vec<(usize, usize, (usize, usize))> = Vec::new();
    let mut end = 0;
    for at in order {
        let (len, life) = (len_of(&storages[at]), lives[at].expect("filtered above"));
        let mut neighbours: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, _, other)| life.0 <= other.1 && other.0 <= life.1)
            .map(|(offset, len, _)| (*offset, *len))
            .collect();
        neighbours.sort_unstable();
        let mut offset = 0;
        for (start, extent) in neighbours {
            if start >= offset + len {
                break;
            }
            offset = offset.max(start + extent);
        }
        placed.push((offset, len, life));
        end = end.max(offset + len);
        if let Storage::Temp { offset: place, .. } = &mut storages[at] {
            *place = offset;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::super::memory::StorageId;
    use super::*;

    fn step(reads: &[usize], writes: &[usize]) -> Step {
        let ids = |list: &[usize]| list.iter().map(|id| StorageId(*id)).collect();
        Step {
            label: String::new(),
            flops: 0.0,
            reads: ids(reads),
            writes: ids(writes),
            reads_rounded: None,
            run: Box::new(|_, _| {}),
        }
    }

    #[test]
    fn values_alive_together_never_overlap_and_the_dead_are_reused() {
        let temp = || Storage::Temp { offset: 0, len: 100 };
        let mut storages = vec![temp(), temp(), temp(), temp()];
        // A chain: each value is read by the step that makes the next.
        let steps = [step(&[], &[0]), step(&[0], &[1]), step(&[1], &[2]), step(&[2], &[3])];
        let end = place(&mut storages, &steps);
        assert_eq!(end, 2 * 112, "two places of 100 elements, rounded up to cache lines");
        let offset = |at: usize| match storages[at] {
            Storage::Temp { offset, .. } => offset,
            _ => unreachable!("all are temporary"),
        };
        (0..3).for_each(|at| assert_ne!(offset(at), offset(at + 1)));
    }
}

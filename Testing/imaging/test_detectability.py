"""Model observers against closed forms."""

from dataclasses import dataclass

import numpy as np
import pytest
from noise_fixtures import noise
from scipy import integrate, special

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.detectability import cho, eye_filter, laguerre_gauss, npwe, npwe_of_response
from ASCONDenoiseLib.imaging.noise_spectrum import nps
from ASCONDenoiseLib.imaging.transfer import TransferFunction


@dataclass
class Curve:
    frequency: np.ndarray
    power: np.ndarray


def gaussian_blur(sigma_mm, highest):
    f = np.linspace(0, highest, 400)
    ttf = np.exp(-2 * (np.pi * sigma_mm * f) ** 2)
    return TransferFunction(tuple(f), tuple(ttf), None, None, 2.563 * sigma_mm, 100.0, 100.0)


FINE = np.linspace(0.01, 20, 2000)


@pytest.mark.parametrize("diameter_mm", [2.0, 5.0, 12.0])
@pytest.mark.parametrize("contrast_hu", [10.0, -30.0])
def test_a_disc_in_white_noise(diameter_mm, contrast_hu):
    """The matched filter: d' = contrast sqrt(area / NPS)."""
    found = npwe(diameter_mm, contrast_hu, Curve(FINE, np.full_like(FINE, 250.0)), eye=False)
    assert found == pytest.approx(abs(contrast_hu) * np.sqrt(np.pi * diameter_mm**2 / 4 / 250.0), rel=0.02)


def test_a_blurred_disc_in_white_noise():
    """Energy of a blurred disc over the plane, in closed form: int of its autocorrelation with the blur's own."""
    radius, sigma = 3.0, 1.2
    found = npwe(2 * radius, 20.0, Curve(FINE, np.full_like(FINE, 100.0)), gaussian_blur(sigma, 20.0), eye=False)
    z = radius**2 / (2 * sigma**2)  # the disc's energy after a Gaussian of sigma sqrt(2)
    energy = 20.0**2 * np.pi * radius**2 * (1 - np.exp(-z) * (special.i0(z) + special.i1(z)))
    assert found == pytest.approx(np.sqrt(energy / 100.0), rel=0.02)


def test_ramp_noise_and_the_eye_by_another_quadrature():
    diameter, sigma = 5.0, 0.8
    spectrum = Curve(np.linspace(0.002, 2.0, 1000), 600 * np.linspace(0.002, 2.0, 1000))

    def integrand(f, with_noise):
        w = 15 * diameter / 2 * special.j1(np.pi * diameter * f) / f * np.exp(-2 * (np.pi * sigma * f) ** 2)
        e = eye_filter(np.array(f))
        return 2 * np.pi * f * w**2 * (e**4 * 600 * f if with_noise else e**2)

    seen, disturbed = (integrate.quad(integrand, 1e-9, 2.0, (flag,), limit=300)[0] for flag in (False, True))
    found = npwe(diameter, 15.0, spectrum, gaussian_blur(sigma, 2.0))
    assert found == pytest.approx(seen / np.sqrt(disturbed), rel=0.005)


def test_the_eye_filter_is_that_of_the_publication():
    f = np.linspace(0.001, 3, 6000)
    response = eye_filter(f)
    cycles_per_degree = f[response.argmax()] * (350 / 300) * 475 * np.pi / 180
    assert response.max() == pytest.approx(1, abs=1e-4)
    assert cycles_per_degree == pytest.approx((1.5 / (0.98 * 0.68)) ** (1 / 0.68), rel=0.01)
    r = 2.0
    wanted = (r**1.5 * np.exp(-0.98 * r**0.68)) ** 2
    best = ((1.5 / (0.98 * 0.68)) ** (1.5 / 0.68) * np.exp(-1.5 / 0.68)) ** 2
    assert eye_filter(np.array([r / (350 / 300 * 475 * np.pi / 180)]))[0] == pytest.approx(wanted / best, rel=1e-6)


def test_a_measured_response_in_measured_noise():
    """The same d' by both ways: from a Gaussian blob and noise of a known kernel as images, and in closed form."""
    n, pixel, sigma = 64, 0.6, 2.0
    y, x = (np.indices((n, n)) - n // 2) * pixel
    blob = 20 * np.exp(-(x**2 + y**2) / (2 * sigma**2))
    white = nps(noise((400, n, n), 15), (pixel, pixel), trend=None)
    energy = 20**2 * np.pi * sigma**2
    found = npwe_of_response(blob, white.power_2d, (pixel, pixel), eye=False)
    assert found == pytest.approx(np.sqrt(energy / (15**2 * pixel**2)), rel=0.02)
    assert npwe_of_response(blob, white.power_2d, (pixel, pixel)) < found  # white noise: nothing beats the match
    with pytest.raises(ValueError, match="differ in shape"):
        npwe_of_response(blob[:32, :32], white.power_2d, (pixel, pixel))


def test_no_noise_and_no_disc_are_refused():
    with pytest.raises(InputError, match="no power"):
        npwe(5, 10, Curve(FINE, np.zeros_like(FINE)))
    with pytest.raises(InputError, match="diameter above 0"):
        npwe(0, 10, Curve(FINE, np.ones_like(FINE)))


def test_channels_are_orthonormal():
    channels = laguerre_gauss(128, (0.4, 0.4, 3.0), 10.0).reshape(6, -1)
    assert channels @ channels.T * 0.4**2 == pytest.approx(np.eye(6), abs=1e-3)


def test_the_hotelling_observer_of_a_matched_signal_in_white_noise():
    """The first channel is the signal itself, so the observer is the ideal one: d' = |signal| / SD."""
    rng = np.random.default_rng(3)
    n, pixel, width = 48, 0.5, 8.0
    y, x = (np.indices((n, n)) - (n - 1) / 2) * pixel
    signal = 3.0 * np.exp(-np.pi * (x**2 + y**2) / width**2)
    absent, with_signal = rng.normal(0, 15, (2, 4000, n, n))
    ideal = np.sqrt((signal**2).sum()) / 15
    assert cho(with_signal + signal, absent, (pixel, pixel), width) == pytest.approx(ideal, rel=0.02)


def test_the_hotelling_observer_whitens_within_its_channels():
    """Coloured noise: d'^2 = s' U (U' K U)^-1 U' s with the covariance K known from the spectrum."""
    n, pixel, width, kernel = 48, 0.5, 6.0, 0.2
    y, x = (np.indices((n, n)) - (n - 1) / 2) * pixel
    signal = 20.0 * (np.hypot(x, y) <= 3.0)
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :])
    power = f * np.exp(-((f / kernel) ** 2))
    power *= 20**2 / power.mean()
    channels = laguerre_gauss(n, (pixel, pixel), width)
    filtered = np.fft.ifft2(np.fft.fft2(channels) * power).real.reshape(6, -1)
    seen = channels.reshape(6, -1) @ signal.ravel()
    wanted = np.sqrt(seen @ np.linalg.solve(filtered @ channels.reshape(6, -1).T, seen))
    images = noise((8000, n, n), 20, seed=5, kernel=kernel)
    found = cho(images[:4000] + signal, images[4000:], (pixel, pixel), width)
    assert found == pytest.approx(wanted, rel=0.02)


def test_few_images_do_not_make_a_signal_where_there_is_none():
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(200):
        images = rng.normal(size=(2, 12, 16, 16))
        squares.append(cho(images[0], images[1], (1.0, 1.0), 6.0) ** 2)
    assert np.median(squares) < 0.5  # without the correction it would be about 1.4
    with pytest.raises(InputError, match="channels need more"):
        cho(images[0][:3], images[1][:3], (1.0, 1.0), 6.0)
    with pytest.raises(InputError, match="one shape"):
        cho(images[0], images[1][:, :8, :8], (1.0, 1.0), 6.0)

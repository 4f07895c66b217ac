"""The Gradle build for phones and the POMs tested here make the same; and what a release says of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloud_service.job import tomllib
from tests.device_runtime.android_builds import ANDROID, FOLDERS, MAVEN_ALONE, POM, Builds, differences

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied(tmp_path: Path) -> Builds:
    """The files that the comparison reads, to change."""
    wanted = [
        "pyproject.toml",
        *(str(ANDROID / name) for name in ("pom.xml", "settings.gradle.kts", "gradle.properties")),
    ]
    wanted.append(str(ANDROID / "gradle/libs.versions.toml"))
    for folder in FOLDERS.values():
        names = (
            "pom.xml",
            "build.gradle.kts",
            "src/main/AndroidManifest.xml",
            "src/main/proguard.txt",
            "proguard.txt",
        )
        wanted += [str(folder / name) for name in names if (ROOT / folder / name).exists()]
    for name in wanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return Builds(tmp_path)


def test_both_builds_make_the_same() -> None:
    assert differences(Builds(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("pom.xml", "<grpc.version>1.", "<grpc.version>9.", "grpc: 9."),
        ("gradle/libs.versions.toml", 'kotlin = "2', 'kotlin = "3', "kotlin: "),
        ("gradle/libs.versions.toml", 'executorch = "1', 'executorch = "0', "executorch: 0"),
        ("gradle.properties", "version=0", "version=7", "versions of this project"),
        ("pom.xml", "<min.sdk>26<", "<min.sdk>24<", "minSdk: 24 and 26"),
        (
            "android/src/main/AndroidManifest.xml",
            'minSdkVersion="26"',
            'minSdkVersion="23"',
            "minSdk: 23 and 26",
        ),
        ("gradle/libs.versions.toml", 'targetSdk = "35"', 'targetSdk = "34"', "targetSdk: 34 and 35"),
        ("gradle/libs.versions.toml", 'compileSdk = "35"', 'compileSdk = "36"', "compileSdk: 35 and 36"),
        ("android/build.gradle.kts", "org.cooperllm.android", "org.cooperllm.other", "namespace of android"),
        ("settings.gradle.kts", '"executorch", ', "", "modules: "),
        (
            "runtime/build.gradle.kts",
            "    api(libs.grpc.okhttp)\n",
            "",
            "dependencies of runtime: ['io.grpc:grpc-okhttp']",
        ),
        (
            "executorch/pom.xml",
            "<scope>provided</scope>",
            "",
            "dependencies of executorch: ['org.cooperllm:twin']",
        ),
        (
            "../../android_demo/build.gradle.kts",
            "    implementation(libs.tokenizers.android)\n",
            "",
            "lacks an AAR",
        ),
        ("protos/build.gradle.kts", "federation.proto", "bundle.proto", "protos: "),
        (
            "runtime/pom.xml",
            "  <build>",
            "  <build><sourceDirectory>src</sourceDirectory>",
            "sources of runtime",
        ),
        (
            "android/build.gradle.kts",
            "src/main/proguard.txt",
            "proguard.txt",
            "android: proguard.txt is not there",
        ),
    ],
)
def test_what_differs_is_told(copied: Builds, file: str, old: str, new: str, found: str) -> None:
    path = copied.root / ANDROID / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    told = differences(copied)
    assert len(told) == 1
    assert found in told[0]


def test_what_is_published_says_what_it_is_and_the_rest_never_is() -> None:
    builds = Builds(ROOT)
    parent = builds.pom(ANDROID)
    for wanted in ("licenses/license/name", "developers/developer/name", "scm/url", "url"):
        assert parent.findtext("/".join(POM + part for part in wanted.split("/")))
    license_ids = {parent.findtext(f"{POM}licenses/{POM}license/{POM}name")}
    assert license_ids == {tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]}
    for name, folder in FOLDERS.items() | {(name, ANDROID / name) for name in MAVEN_ALONE}:
        pom = builds.pom(folder)
        published = pom.findtext(f"{POM}properties/{POM}unpublished", "false") == "false"
        assert published == (name not in MAVEN_ALONE | {"demo"}), name
        if published:
            assert pom.findtext(f"{POM}description"), name

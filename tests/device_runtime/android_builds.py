"""How the Gradle build for phones and the POMs tested here differ: sources, versions, levels, dependencies.

The Gradle build cannot run without the Android SDK, so nothing else would notice when the two part.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from cloud_service.job import tomllib

ANDROID = Path("device_runtime/android")
POM = "{http://maven.apache.org/POM/4.0.0}"
MANIFEST = "{http://schemas.android.com/apk/res/android}"
# The twin stands for the AAR that Gradle fetches; Gradle packs an APK by itself.
MAVEN_ALONE = {"twin", "apk"}
FOLDERS = {"demo": Path("android_demo")} | {
    name: ANDROID / name for name in ("protos", "runtime", "executorch", "android")
}
PHONES_ALONE = {"agp", "protobuf-gradle", "executorch", "test-runner"}
NATIVE = {"org.pytorch:executorch-android", "ai.djl.android:tokenizer-native"}
API_OF_ANDROID = {"15": "35", "16": "36"}


@dataclass(frozen=True)
class Builds:
    """Both builds of a checkout, read as text: neither tool is needed."""

    root: Path

    def gradle(self, name: str) -> str:
        return (self.root / FOLDERS[name] / "build.gradle.kts").read_text()

    def pom(self, folder: Path) -> ET.Element:
        return ET.parse(self.root / folder / "pom.xml").getroot()

    def properties(self) -> dict[str, str]:
        found = self.pom(ANDROID).find(f"{POM}properties")
        assert found is not None
        return {
            entry.tag.removeprefix(POM): entry.text or "" for entry in found if isinstance(entry.tag, str)
        }

    def catalog(self) -> dict[str, dict[str, object]]:
        return tomllib.loads((self.root / ANDROID / "gradle/libs.versions.toml").read_text())

    def versions(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.catalog()["versions"].items()}

    def modules(self) -> tuple[set[str], set[str]]:
        """Of the POMs, and of the settings."""
        entries = self.pom(ANDROID).iter(f"{POM}module")
        maven = {(self.root / ANDROID / (entry.text or "")).resolve() for entry in entries}
        names = {"demo" if path.name == "android_demo" else path.name for path in maven}
        settings = (self.root / ANDROID / "settings.gradle.kts").read_text()
        included = re.search(r"include\((.*?)\)", settings)
        assert included is not None
        return names, set(re.findall(r'"(\w+)"', included[1]))

    def maven_dependencies(self, name: str) -> set[str]:
        """What an app gets with the module, but for Kotlin's own library, which Gradle's plugin adds."""
        managed = self.pom(ANDROID).iter(f"{POM}dependency")
        scopes = {_coordinates(entry): entry.findtext(f"{POM}scope", "compile") for entry in managed}
        found = set()
        for entry in self.pom(FOLDERS[name]).findall(f"{POM}dependencies/{POM}dependency"):
            one = _coordinates(entry)
            if entry.findtext(f"{POM}scope", scopes.get(one, "compile")) == "compile":
                found.add(one)
        return found - {"org.jetbrains.kotlin:kotlin-stdlib"}

    def gradle_dependencies(self, name: str) -> set[str]:
        libraries = {key.replace("-", "."): entry for key, entry in self.catalog()["libraries"].items()}
        text = self.gradle(name)
        found = {
            f"org.cooperllm:{one}"
            for one in re.findall(r'^    (?:api|implementation)\(project\(":(\w+)', text, re.M)
        }
        for alias in re.findall(r"^    (?:api|implementation)\(libs\.([\w.]+)\)", text, re.M):
            entry = libraries[alias]
            assert isinstance(entry, dict)
            found.add(entry["module"])
        return found


def _coordinates(dependency: ET.Element) -> str:
    return f"{dependency.findtext(f'{POM}groupId')}:{dependency.findtext(f'{POM}artifactId')}"


def differences(builds: Builds) -> list[str]:
    """One line for each thing in which the builds differ; empty: none."""
    return [*_versions(builds), *_levels(builds), *_modules(builds), *_sources(builds)]


def _versions(builds: Builds) -> list[str]:
    properties, versions = builds.properties(), builds.versions()
    found = []
    for name in versions.keys() - PHONES_ALONE - {"minSdk", "compileSdk", "targetSdk"}:
        if properties.get(f"{name}.version") != versions[name]:
            found.append(
                f"{name}: {properties.get(f'{name}.version')} in the POM, {versions[name]} in the catalog"
            )
    pyproject = (builds.root / "pyproject.toml").read_text()
    if f'"executorch=={versions["executorch"]}"' not in pyproject:
        found.append(f"executorch: {versions['executorch']} in the catalog is not pyproject.toml's")
    own = {
        "parent POM": builds.pom(ANDROID).findtext(f"{POM}version"),
        "pyproject.toml": tomllib.loads(pyproject)["project"]["version"],
        "gradle.properties": re.search(
            r"^version=(.*)$", (builds.root / ANDROID / "gradle.properties").read_text(), re.M
        )[1],  # type: ignore[index]
    }
    if len(set(own.values())) != 1:
        found.append(f"versions of this project: {own}")
    return found


def _levels(builds: Builds) -> list[str]:
    properties, versions = builds.properties(), builds.versions()
    compiled_on = API_OF_ANDROID[properties["android.version"].partition("-")[0]]
    levels = {
        "minSdk": {properties["min.sdk"], versions["minSdk"]},
        "targetSdk": {properties["target.sdk"], versions["targetSdk"]},
        "compileSdk": {compiled_on, versions["compileSdk"]},
    }
    for name in ("android", "demo"):
        manifest = ET.parse(builds.root / FOLDERS[name] / "src/main/AndroidManifest.xml").getroot()
        uses = manifest.find("uses-sdk")
        assert uses is not None
        levels["minSdk"].add(uses.attrib[f"{MANIFEST}minSdkVersion"])
        levels["targetSdk"].add(uses.attrib[f"{MANIFEST}targetSdkVersion"])
        levels[f"namespace of {name}"] = {
            manifest.attrib["package"],
            *re.findall(r'namespace = "(.*)"', builds.gradle(name)),
        }
        for level in ("compileSdk", "minSdk"):
            if f"{level} = libs.versions.{level}.get().toInt()" not in builds.gradle(name):
                levels[level].add(f"something else in {name}'s Gradle file")
    return [f"{name}: {' and '.join(sorted(values))}" for name, values in levels.items() if len(values) != 1]


def _modules(builds: Builds) -> list[str]:
    maven, gradle = builds.modules()
    found = [f"modules: {maven - MAVEN_ALONE} and {gradle}"] if maven - MAVEN_ALONE != gradle else []
    for name in sorted(FOLDERS):
        ours, theirs = builds.maven_dependencies(name), builds.gradle_dependencies(name)
        if name == "demo":
            theirs -= NATIVE
        if ours != theirs:
            found.append(f"dependencies of {name}: {sorted(ours ^ theirs)} in one build alone")
    if not builds.gradle_dependencies("demo") >= NATIVE:
        found.append("the demo for phones lacks an AAR with native libraries")
    return found


def _sources(builds: Builds) -> list[str]:
    found = []
    parent = builds.pom(ANDROID).findtext(f"{POM}build/{POM}sourceDirectory")
    for name in sorted(FOLDERS):
        own = builds.pom(FOLDERS[name]).findtext(f"{POM}build/{POM}sourceDirectory")
        if name == "protos":
            maven = builds.pom(FOLDERS[name]).iter(f"{POM}include")
            theirs = re.findall(r'include\("(.*\.proto)"\)', builds.gradle(name))
            if [entry.text for entry in maven] != theirs:
                found.append(f"protos: {theirs} in Gradle alone")
        # src/main/kotlin is what Gradle takes when nothing else is said.
        elif (own or parent) != "src/main/kotlin" or re.search(
            r"(java|kotlin)\.(srcDir|setSrcDirs|directories)", _main(builds, name)
        ):
            found.append(f"sources of {name}: another folder in one of the builds")
        for rules in re.findall(r'"([\w./]*proguard\.txt)"', builds.gradle(name)):
            if not (builds.root / FOLDERS[name] / rules).exists():
                found.append(f"{name}: {rules} is not there")
    return found


def _main(builds: Builds, name: str) -> str:
    """A Gradle file without what it says of tests."""
    return re.sub(r"    test \{.*?\n    \}", "", builds.gradle(name), flags=re.S)

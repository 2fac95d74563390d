#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the packages of a version: dist.sh DIRECTORY VERSION PLATFORM... with platforms
# such as linux/amd64. The same commit, version and tools make the same bytes.
# `make dist` calls it; it needs GNU tar, and dpkg-deb for the packages of Linux.
set -euo pipefail
umask 022

(($# >= 3)) || { echo "usage: $0 DIRECTORY VERSION GOOS/GOARCH..." >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd) version=$2
shift 2
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# v0.1.0-rc.1 is older than v0.1.0, and v0.1.0-3-gabcdef is newer: Debian writes these as
# 0.1.0~rc.1 and 0.1.0+3.gabcdef. A version must begin with a digit.
debian_version=$(sed -E 's/^v//; s/-dirty$/+dirty/; s/-([0-9]+)-(g[0-9a-f]+)/+\1.\2/; s/-/~/g; s/^([^0-9]|[0-9a-f]{7,40}(\+|$))/0+git\1/' <<<"$version")

# deb ARCH PROGRAM FILE writes a Debian package.
deb() {
	local tree=$work/deb-$1
	mkdir -p "$tree/DEBIAN" "$tree/etc/bucketring/policy" "$tree/usr/bin" "$tree/usr/lib/systemd/system" \
		"$tree/usr/lib/sysusers.d" "$tree/usr/share/doc/bucketring/examples"
	install -m 0755 "$2" "$tree/usr/bin/bucketring"
	# Files of packages are in /usr; /usr/local is for those of `make build`.
	sed 's|/usr/local/bin/|/usr/bin/|' deploy/systemd/bucketring.service >"$tree/usr/lib/systemd/system/bucketring.service"
	install -m 0644 deploy/systemd/bucketring.conf "$tree/usr/lib/sysusers.d/"
	install -m 0644 deploy/debian/bucketring.yaml "$tree/etc/bucketring/"
	install -m 0644 deploy/policy/policy.yaml "$tree/etc/bucketring/policy/"
	install -m 0644 deploy/systemd/bucketring.yaml "$tree/usr/share/doc/bucketring/examples/cluster.yaml"
	install -m 0644 CHANGELOG.md "$tree/usr/share/doc/bucketring/"
	cat NOTICE LICENSE >"$tree/usr/share/doc/bucketring/copyright"
	printf '%s\n' /etc/bucketring/bucketring.yaml /etc/bucketring/policy/policy.yaml >"$tree/DEBIAN/conffiles"
	install -m 0755 deploy/debian/{postinst,prerm,postrm} "$tree/DEBIAN/"
	sed "s|@VERSION@|$debian_version|; s|@ARCH@|$1|; s|@SIZE@|$(du -sk --apparent-size "$tree/usr" | cut -f1)|" \
		deploy/debian/control >"$tree/DEBIAN/control"
	dpkg-deb --root-owner-group --threads-max=1 --build "$tree" "$3" >/dev/null
}

for platform in "$@"; do
	export GOOS=${platform%/*} GOARCH=${platform#*/}
	name=bucketring_${version#v}_${GOOS}_$GOARCH
	mkdir "$work/$name"
	go build -trimpath -ldflags "-s -w -X github.com/bucketring/bucketring/internal/buildinfo.version=$version" \
		-o "$work/$name/bucketring" ./cmd/bucketring
	bin/cyclonedx-gomod bin -json -noserial -notimestamp -std -version "$version" -output "$out/$name.cdx.json" "$work/$name/bucketring"
	install -m 0644 LICENSE NOTICE CHANGELOG.md "$work/$name/"
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" -c "$name" |
		gzip -n >"$out/$name.tar.gz"
	if [[ $GOOS == linux ]]; then
		deb "$GOARCH" "$work/$name/bucketring" "$out/bucketring_${debian_version}_$GOARCH.deb"
	fi
done
cd "$out"
LC_ALL=C sha256sum -- bucketring_* >SHA256SUMS

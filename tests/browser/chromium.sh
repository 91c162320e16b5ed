# Fetches Debian's chromium into the current directory, without root: the package, the libraries and fonts that this machine
# lacks, unpacked below `root`. apt reads its lists from here, because a fresh machine has none.
set -eu
mkdir -p lists/partial packages
options="-o Dir::State::lists=$PWD/lists -o APT::Sandbox::User= -o Debug::NoLocking=true"
apt-get $options update
names=$(apt-get $options --simulate --no-install-recommends install chromium fonts-dejavu-core | awk '/^Inst/ { print $2 }')
cd packages
apt-get $options download $names
for package in *.deb; do dpkg-deb -x "$package" ../root; done
cd ..
rm -r packages lists

package abi

import "encoding/binary"

// AppendManifest returns the module with a manifest in its custom section
// ManifestSection, at the end, where every reader finds it and no tool minds. It
// reads neither of the two.
func AppendManifest(module, manifest []byte) []byte {
	content := binary.AppendUvarint(nil, uint64(len(ManifestSection)))
	content = append(append(content, ManifestSection...), manifest...)
	out := append(append([]byte{}, module...), 0)
	out = binary.AppendUvarint(out, uint64(len(content)))
	return append(out, content...)
}

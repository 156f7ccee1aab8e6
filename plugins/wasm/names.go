package wasm

import "encoding/binary"

// nameSection is the custom section in which toolchains leave names for people.
const nameSection = "name"

// Custom is the content of a module's first custom section of a name, nil when
// there is none before something that cannot be read.
//
// It takes time in proportion to the number of sections at the most.
func Custom(module []byte, name string) []byte {
	if len(module) < 8 {
		return nil
	}
	for rest := module[8:]; len(rest) > 0; {
		id := rest[0]
		content, after, ok := sized(rest[1:])
		if !ok {
			return nil
		}
		rest = after
		if id != customSection {
			continue
		}
		if is, content, ok := sized(content); ok && string(is) == name {
			return content
		}
	}
	return nil
}

// FunctionNames are the names that a module's section "name" gives its functions,
// by index, imports counted first. Rewrite keeps every index, so they name the
// functions of a rewritten module's stack too. The section is for people and
// nothing depends on it: what is wrong with it ends the list.
//
// It takes memory and time in proportion to len(module) at the most.
func FunctionNames(module []byte) map[int]string {
	return functionNames(Custom(module, nameSection))
}

// functionNames reads the subsection 1 of a section "name".
func functionNames(section []byte) map[int]string {
	for len(section) > 0 {
		id := section[0]
		content, rest, ok := sized(section[1:])
		if !ok {
			return nil
		}
		section = rest
		if id != 1 {
			continue
		}
		names := map[int]string{}
		count, n := binary.Uvarint(content)
		if n <= 0 {
			return nil
		}
		content = content[n:]
		for range count {
			index, n := binary.Uvarint(content)
			if n <= 0 || index > 1<<31 {
				break
			}
			name, rest, ok := sized(content[n:])
			if !ok {
				break
			}
			names[int(index)], content = string(name), rest
		}
		return names
	}
	return nil
}

// sized splits off bytes that their length stands before.
func sized(b []byte) (content, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	return b[n : n+int(size)], b[n+int(size):], true
}

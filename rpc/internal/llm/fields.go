// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"maps"
)

// field is what a member of the body means for the cost of the call.
type field uint8

const (
	unknownField field = iota
	modelField
	serviceTierField
	boundField   // of the output
	minimumField // of the output
	choicesField
	streamField
	streamOptionsField // of the stream
	contentField       // input that may contain media
	predictionField    // of the output
	textField          // input without media
	toolsField
	toolChoiceField
	formatField       // of the output: {"type": …}
	formatObjectField // {"format": {"type": …}}
	grammarField      // of the output
	promptField       // texts or token ids
	thinkingField
	storedField   // refers to input that the server stores
	embedsField   // input as vectors
	truncateField // of a prompt that is too long
	backgroundField
)

// The fields that matter, including those that vLLM, SGLang and llama.cpp add.
var (
	chatFields = merge(generationFields, map[string]field{
		"messages": contentField, "prediction": predictionField, "documents": textField,
		"chat_template": textField, "chat_template_kwargs": textField,
		"tools": toolsField, "functions": toolsField, "tool_choice": toolChoiceField, "function_call": toolChoiceField,
		"data_sources": storedField, "cached_content": storedField, "session_params": storedField,
	})
	completionFields = merge(generationFields, map[string]field{
		"prompt": promptField, "suffix": textField, "prompt_embeds": embedsField, "session_params": storedField,
	})
	generationFields = map[string]field{ // of chat and other completions
		"service_tier": serviceTierField,
		"model":        modelField, "max_tokens": boundField, "max_completion_tokens": boundField, "n_predict": boundField, "min_tokens": minimumField,
		"truncate_prompt_tokens": truncateField,
		"n":                      choicesField, "best_of": choicesField, "n_cmpl": choicesField, "stream": streamField, "stream_options": streamOptionsField,
		"response_format": formatField, "structured_outputs": grammarField, "guided_json": grammarField,
		"guided_regex": grammarField, "guided_choice": grammarField, "guided_grammar": grammarField,
		"json_schema": grammarField, "regex": grammarField, "ebnf": grammarField, "structural_tag": grammarField,
	}
	embeddingFields = map[string]field{
		"model": modelField, "truncate_prompt_tokens": truncateField, "truncate": truncateField, "input": promptField, "messages": contentField, "chat_template": textField, "chat_template_kwargs": textField,
	}
	responseFields = map[string]field{
		"model": modelField, "service_tier": serviceTierField, "max_output_tokens": boundField, "stream": streamField,
		"input": contentField, "instructions": textField, "tools": toolsField, "tool_choice": toolChoiceField,
		"text": formatObjectField, "structured_outputs": grammarField,
		"truncation": truncateField, "previous_response_id": storedField, "conversation": storedField, "prompt": storedField, "background": backgroundField,
	}
	messageFields = map[string]field{
		"model": modelField, "service_tier": serviceTierField, "max_tokens": boundField, "stream": streamField,
		"messages": contentField, "system": contentField, "tools": toolsField, "tool_choice": toolChoiceField, "mcp_servers": textField,
		"output_format": formatField, "output_config": formatObjectField, "thinking": thinkingField, "container": storedField,
	}
)

// otherFields are those of endpoints that are not known.
var otherFields = map[string]field{"model": modelField}

// merge adds the fields of a to b and returns b.
func merge(a, b map[string]field) map[string]field {
	maps.Copy(b, a)
	return b
}

// misspelled returns the field that name spells in another case. Servers in Go take
// one for the other, and use the last one.
func misspelled(fields map[string]field, name []byte) (string, bool) {
	for known := range fields {
		if bytes.EqualFold(name, []byte(known)) {
			return known, true
		}
	}
	return "", false
}

// medium is the kind of a part of a prompt that is not text.
type medium uint8

const (
	noMedium medium = iota
	image
	audio
	video
	file
	reference // to what the server stores
)

// mediumBytes are the bytes that a part of a medium counts for.
var mediumBytes = [...]int64{noMedium: 0, image: ImageBytes, audio: AudioBytes, video: VideoBytes, file: FileBytes, reference: 3 * StoredTokens}

// mediumOf returns the medium of the type of a part.
func mediumOf(kind []byte) medium {
	switch string(kind) {
	case "image_url", "input_image", "image", "image_file", "image_embeds", "computer_screenshot", "image_generation_call":
		return image
	case "input_audio", "audio_url", "audio":
		return audio
	case "video_url", "input_video", "video":
		return video
	case "file", "input_file", "document", "container_upload":
		return file
	case "item_reference":
		return reference
	}
	return noMedium
}

// isPayload reports whether a member with that name holds the data of a medium, or a
// reference to it.
func isPayload(name []byte) bool {
	switch string(name) {
	case "image_url", "image_embeds", "image_file", "input_audio", "audio_url", "video_url", "input_video",
		"image", "audio", "video", "file", "file_data", "file_url", "file_id", "source":
		return true
	}
	return false
}

// isText reports whether a string in a member with that name is text, whatever it looks
// like: servers give it to the model as it is.
func isText(name []byte) bool {
	switch string(name) {
	case "content", "text", "output", "thinking", "reasoning", "reasoning_content", "refusal", "summary", "transcript",
		"instructions", "title", "context", "name", "code", "query", "role":
		return true
	}
	return false
}

// isCertainText reports whether a text in a member with that name is given to the model by
// every server. Some leave out others, such as the reasoning of earlier turns.
func isCertainText(name []byte) bool { return string(name) == "content" || string(name) == "text" }

// isTextType reports whether all of a part, or of the source of a document, is text.
func isTextType(kind []byte) bool {
	switch string(kind) {
	case "text", "input_text", "output_text", "refusal", "content":
		return true
	}
	return false
}

// minEncodedBytes is the size of the shortest string that is taken for encoded data.
// Words and identifiers are shorter.
const minEncodedBytes = 256

// isEncoded reports whether the inside of a string is encoded data: base64 in one of its
// alphabets, with or without the head of a data URL.
func isEncoded(s []byte) bool {
	if len(s) < minEncodedBytes {
		return false
	}
	if bytes.HasPrefix(s, []byte("data:")) {
		comma := bytes.IndexByte(s[:minEncodedBytes], ',')
		if comma < 0 {
			return false
		}
		s = s[comma+1:]
	}
	for i, c := range s {
		switch {
		case isNameByte(c) && c != '$', c == '+', c == '/':
		case c == '=' && len(s)-i <= 2: // padding
		case c == '\\' && i+1 < len(s) && (s[i+1] == '/' || s[i+1] == 'n' || s[i+1] == 'r'): // escapes in base64 with lines
		default:
			return false
		}
	}
	return true
}

// SPDX-License-Identifier: Apache-2.0

package llm

import "bytes"

// field is what a member of the body has to do with the cost of the call.
type field uint8

const (
	unknownField field = iota
	modelField
	boundField   // of the output
	minimumField // of the output
	choicesField
	streamField
	optionsField // of the stream
	readField    // the model reads it
	plainField   // the same, and there are no images in it
	toolsField
	toolChoiceField
	formatField  // of the output: {"type": …}
	formatsField // {"format": {"type": …}}
	grammarField // of the output, whatever it is
	promptField  // texts or token ids
	thinkingField
	hiddenField // refers to what the server keeps
	backgroundField
)

// The fields that matter, with those that vLLM, SGLang and llama.cpp have on
// top.
var (
	chatFields = map[string]field{
		"model": modelField, "max_tokens": boundField, "max_completion_tokens": boundField, "n_predict": boundField, "min_tokens": minimumField,
		"n": choicesField, "best_of": choicesField, "n_cmpl": choicesField, "stream": streamField, "stream_options": optionsField,
		"messages": readField, "prediction": readField, "documents": plainField,
		"chat_template": plainField, "chat_template_kwargs": plainField,
		"tools": toolsField, "functions": toolsField, "tool_choice": toolChoiceField, "function_call": toolChoiceField,
		"response_format": formatField, "structured_outputs": grammarField, "guided_json": grammarField,
		"guided_regex": grammarField, "guided_choice": grammarField, "guided_grammar": grammarField,
		"json_schema": grammarField, "regex": grammarField, "ebnf": grammarField, "structural_tag": grammarField,
	}
	completionFields = map[string]field{
		"model": modelField, "max_tokens": boundField, "max_completion_tokens": boundField, "n_predict": boundField, "min_tokens": minimumField,
		"n": choicesField, "best_of": choicesField, "n_cmpl": choicesField, "stream": streamField, "stream_options": optionsField,
		"prompt": promptField, "suffix": plainField,
		"response_format": formatField, "structured_outputs": grammarField, "guided_json": grammarField,
		"guided_regex": grammarField, "guided_choice": grammarField, "guided_grammar": grammarField,
		"json_schema": grammarField, "regex": grammarField, "ebnf": grammarField, "structural_tag": grammarField,
	}
	embeddingFields = map[string]field{
		"model": modelField, "input": promptField, "messages": readField, "chat_template": plainField, "chat_template_kwargs": plainField,
	}
	responseFields = map[string]field{
		"model": modelField, "max_output_tokens": boundField, "stream": streamField,
		"input": readField, "instructions": plainField, "tools": toolsField, "tool_choice": toolChoiceField,
		"text": formatsField, "structured_outputs": grammarField,
		"previous_response_id": hiddenField, "conversation": hiddenField, "prompt": hiddenField, "background": backgroundField,
	}
	messageFields = map[string]field{
		"model": modelField, "max_tokens": boundField, "stream": streamField,
		"messages": readField, "system": readField, "tools": toolsField, "tool_choice": toolChoiceField, "mcp_servers": plainField,
		"output_format": formatField, "output_config": formatsField, "thinking": thinkingField, "container": hiddenField,
	}
)

// lookalike returns the field that name spells in another case. Servers that are
// written in Go take one for the other, and then the last one counts.
func lookalike(fields map[string]field, name []byte) (string, bool) {
	for known := range fields {
		if bytes.EqualFold(name, []byte(known)) {
			return known, true
		}
	}
	return "", false
}

// medium is what a part of a prompt is.
type medium uint8

const (
	noMedium medium = iota
	image
	audio
	video
	file
)

// mediumBytes are what a part counts for.
var mediumBytes = [...]int64{noMedium: 0, image: ImageBytes, audio: AudioBytes, video: VideoBytes, file: FileBytes}

// mediumOf returns the medium of a part by its type.
func mediumOf(kind []byte) medium {
	switch string(kind) {
	case "image_url", "input_image", "image", "image_file", "image_embeds", "computer_screenshot":
		return image
	case "input_audio", "audio_url", "audio":
		return audio
	case "video_url", "input_video", "video":
		return video
	case "file", "input_file", "document", "container_upload":
		return file
	}
	return noMedium
}

// isPayload reports whether a member with that name holds the contents of a part
// that is no text, or says where they are.
func isPayload(name []byte) bool {
	switch string(name) {
	case "image_url", "image_embeds", "image_file", "input_audio", "audio_url", "video_url", "input_video",
		"file", "file_data", "file_url", "file_id", "source":
		return true
	}
	return false
}

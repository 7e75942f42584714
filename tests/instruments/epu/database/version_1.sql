-- The tables of a SQLite database of version 1, as `.dump` of sqlite3 gives them.
BEGIN TRANSACTION;
CREATE TABLE acquisition (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	id TEXT, 
	name TEXT DEFAULT 'Unknown' NOT NULL, 
	status TEXT DEFAULT 'started' NOT NULL, 
	start_time DATETIME, 
	end_time DATETIME, 
	paused_time DATETIME, 
	storage_path TEXT, 
	atlas_path TEXT, 
	clustering_mode TEXT, 
	clustering_radius TEXT, 
	instrument_model TEXT, 
	instrument_id TEXT, 
	computer_name TEXT, 
	data_dir TEXT, 
	CONSTRAINT pk_acquisition PRIMARY KEY (number), 
	CONSTRAINT uq_acquisition_uuid UNIQUE (uuid)
);
CREATE TABLE agent_acknowledgement (
	acknowledgement_id INTEGER NOT NULL, 
	instruction_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	result TEXT, 
	error_message TEXT, 
	processing_time_ms FLOAT, 
	processed_at DATETIME, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_agent_acknowledgement PRIMARY KEY (acknowledgement_id), 
	CONSTRAINT fk_agent_acknowledgement_instruction_id FOREIGN KEY(instruction_id) REFERENCES agent_instruction (instruction_id) ON DELETE CASCADE, 
	CONSTRAINT fk_agent_acknowledgement_session_id FOREIGN KEY(session_id) REFERENCES agent_session (session_id) ON DELETE CASCADE
);
CREATE TABLE agent_connection (
	connection_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	client_info JSON, 
	status TEXT DEFAULT 'active' NOT NULL, 
	close_reason TEXT, 
	created_at DATETIME NOT NULL, 
	last_heartbeat_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	CONSTRAINT pk_agent_connection PRIMARY KEY (connection_id), 
	CONSTRAINT fk_agent_connection_session_id FOREIGN KEY(session_id) REFERENCES agent_session (session_id) ON DELETE CASCADE
);
CREATE TABLE agent_instruction (
	number INTEGER NOT NULL, 
	instruction_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	instruction_type TEXT NOT NULL, 
	payload JSON NOT NULL, 
	sequence_number INTEGER, 
	priority TEXT DEFAULT 'normal' NOT NULL, 
	status TEXT DEFAULT 'pending' NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	sent_at DATETIME, 
	acknowledged_at DATETIME, 
	retry_count INTEGER DEFAULT '0' NOT NULL, 
	max_retries INTEGER DEFAULT '3' NOT NULL, 
	metadata JSON, 
	CONSTRAINT pk_agent_instruction PRIMARY KEY (number), 
	CONSTRAINT fk_agent_instruction_session_id FOREIGN KEY(session_id) REFERENCES agent_session (session_id) ON DELETE CASCADE, 
	CONSTRAINT uq_agent_instruction_instruction_id UNIQUE (instruction_id)
);
CREATE TABLE agent_log (
	id INTEGER NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	timestamp DATETIME NOT NULL, 
	level TEXT NOT NULL, 
	logger_name TEXT DEFAULT '' NOT NULL, 
	message TEXT NOT NULL, 
	CONSTRAINT pk_agent_log PRIMARY KEY (id), 
	CONSTRAINT fk_agent_log_session_id FOREIGN KEY(session_id) REFERENCES agent_session (session_id) ON DELETE CASCADE
);
CREATE TABLE agent_session (
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	acquisition_uuid TEXT, 
	name TEXT, 
	status TEXT DEFAULT 'active' NOT NULL, 
	created_at DATETIME NOT NULL, 
	last_activity_at DATETIME NOT NULL, 
	last_heartbeat_at DATETIME, 
	CONSTRAINT pk_agent_session PRIMARY KEY (session_id), 
	CONSTRAINT fk_agent_session_acquisition_uuid FOREIGN KEY(acquisition_uuid) REFERENCES acquisition (uuid) ON DELETE CASCADE
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE applied_message (
	message_id TEXT NOT NULL, 
	applied_at DATETIME NOT NULL, 
	CONSTRAINT pk_applied_message PRIMARY KEY (message_id)
);
CREATE TABLE atlas (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	atlas_id TEXT DEFAULT '' NOT NULL, 
	grid_uuid TEXT, 
	acquisition_date DATETIME, 
	storage_folder TEXT, 
	description TEXT, 
	name TEXT DEFAULT '' NOT NULL, 
	path TEXT, 
	gridsquares JSON, 
	CONSTRAINT pk_atlas PRIMARY KEY (number), 
	CONSTRAINT fk_atlas_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_atlas_uuid UNIQUE (uuid)
);
CREATE TABLE atlas_tile (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	atlas_uuid TEXT NOT NULL, 
	tile_id TEXT DEFAULT '' NOT NULL, 
	position_x FLOAT, 
	position_y FLOAT, 
	size_x FLOAT, 
	size_y FLOAT, 
	file_format TEXT, 
	base_filename TEXT, 
	gridsquares JSON, 
	CONSTRAINT pk_atlas_tile PRIMARY KEY (number), 
	CONSTRAINT fk_atlas_tile_atlas_uuid FOREIGN KEY(atlas_uuid) REFERENCES atlas (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_atlas_tile_uuid UNIQUE (uuid)
);
CREATE TABLE atlas_tile_position (
	number INTEGER NOT NULL, 
	atlastile_uuid TEXT NOT NULL, 
	gridsquare_uuid TEXT NOT NULL, 
	center_x FLOAT NOT NULL, 
	center_y FLOAT NOT NULL, 
	size_width FLOAT NOT NULL, 
	size_height FLOAT NOT NULL, 
	CONSTRAINT pk_atlas_tile_position PRIMARY KEY (number), 
	CONSTRAINT fk_atlas_tile_position_atlastile_uuid FOREIGN KEY(atlastile_uuid) REFERENCES atlas_tile (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_atlas_tile_position_gridsquare_uuid FOREIGN KEY(gridsquare_uuid) REFERENCES gridsquare (uuid) ON DELETE CASCADE
);
CREATE TABLE current_model_weight (
	id INTEGER NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	weight FLOAT NOT NULL, 
	CONSTRAINT pk_current_model_weight PRIMARY KEY (id), 
	CONSTRAINT fk_current_model_weight_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_current_model_weight_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_current_model_weight_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE current_prediction (
	id INTEGER NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	gridsquare_uuid TEXT, 
	foilhole_uuid TEXT, 
	CONSTRAINT pk_current_prediction PRIMARY KEY (id), 
	CONSTRAINT fk_current_prediction_foilhole_uuid FOREIGN KEY(foilhole_uuid) REFERENCES foilhole (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_current_prediction_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_current_prediction_gridsquare_uuid FOREIGN KEY(gridsquare_uuid) REFERENCES gridsquare (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_current_prediction_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_current_prediction_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE foilhole (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	gridsquare_uuid TEXT NOT NULL, 
	gridsquare_id TEXT, 
	foilhole_id TEXT DEFAULT '' NOT NULL, 
	status TEXT DEFAULT 'none' NOT NULL, 
	center_x FLOAT, 
	center_y FLOAT, 
	quality FLOAT, 
	rotation FLOAT, 
	size_width FLOAT, 
	size_height FLOAT, 
	x_location FLOAT, 
	y_location FLOAT, 
	x_stage_position FLOAT, 
	y_stage_position FLOAT, 
	diameter FLOAT, 
	is_near_grid_bar BOOLEAN DEFAULT '0' NOT NULL, 
	planned BOOLEAN DEFAULT '1' NOT NULL, 
	manifest_file TEXT, 
	manifest_stamp TEXT, 
	CONSTRAINT pk_foilhole PRIMARY KEY (number), 
	CONSTRAINT fk_foilhole_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_foilhole_uuid UNIQUE (uuid)
);
CREATE TABLE foilhole_group (
	id INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_foilhole_group PRIMARY KEY (id), 
	CONSTRAINT fk_foilhole_group_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_foilhole_group_uuid UNIQUE (uuid)
);
CREATE TABLE foilhole_group_member (
	group_uuid TEXT NOT NULL, 
	foilhole_uuid TEXT NOT NULL, 
	CONSTRAINT pk_foilhole_group_member PRIMARY KEY (group_uuid, foilhole_uuid), 
	CONSTRAINT fk_foilhole_group_member_foilhole_uuid FOREIGN KEY(foilhole_uuid) REFERENCES foilhole (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_foilhole_group_member_group_uuid FOREIGN KEY(group_uuid) REFERENCES foilhole_group (uuid) ON DELETE CASCADE
);
CREATE TABLE grid (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	acquisition_uuid TEXT NOT NULL, 
	name TEXT DEFAULT 'Unknown' NOT NULL, 
	status TEXT DEFAULT 'none' NOT NULL, 
	data_dir TEXT, 
	atlas_dir TEXT, 
	atlas_uuid TEXT, 
	scan_start_time DATETIME, 
	scan_end_time DATETIME, 
	CONSTRAINT pk_grid PRIMARY KEY (number), 
	CONSTRAINT fk_grid_acquisition_uuid FOREIGN KEY(acquisition_uuid) REFERENCES acquisition (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_grid_uuid UNIQUE (uuid)
);
CREATE TABLE gridsquare (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	gridsquare_id TEXT DEFAULT '' NOT NULL, 
	status TEXT DEFAULT 'none' NOT NULL, 
	data_dir TEXT, 
	atlas_node_id BIGINT, 
	state TEXT, 
	rotation FLOAT, 
	image_path TEXT, 
	selected BOOLEAN, 
	unusable BOOLEAN, 
	stage_position_x FLOAT, 
	stage_position_y FLOAT, 
	stage_position_z FLOAT, 
	center_x FLOAT, 
	center_y FLOAT, 
	physical_x FLOAT, 
	physical_y FLOAT, 
	size_width FLOAT, 
	size_height FLOAT, 
	acquisition_datetime DATETIME, 
	defocus FLOAT, 
	applied_defocus FLOAT, 
	magnification FLOAT, 
	pixel_size FLOAT, 
	detector_name TEXT, 
	n_foilhole_positions INTEGER, 
	lowmag BOOLEAN DEFAULT '0' NOT NULL, 
	metadata_file TEXT, 
	manifest_file TEXT, 
	manifest_stamp TEXT, 
	CONSTRAINT pk_gridsquare PRIMARY KEY (number), 
	CONSTRAINT fk_gridsquare_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_gridsquare_uuid UNIQUE (uuid)
);
CREATE TABLE group_prediction (
	id INTEGER NOT NULL, 
	group_uuid TEXT, 
	timestamp DATETIME NOT NULL, 
	value FLOAT NOT NULL, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	CONSTRAINT pk_group_prediction PRIMARY KEY (id), 
	CONSTRAINT fk_group_prediction_group_uuid FOREIGN KEY(group_uuid) REFERENCES foilhole_group (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_group_prediction_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_group_prediction_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE metric (
	name TEXT NOT NULL, 
	description TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_metric PRIMARY KEY (name)
);
CREATE TABLE metric_statistics (
	name TEXT NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	value_sum FLOAT NOT NULL, 
	squared_value_sum FLOAT NOT NULL, 
	CONSTRAINT pk_metric_statistics PRIMARY KEY (name, grid_uuid), 
	CONSTRAINT fk_metric_statistics_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_metric_statistics_name FOREIGN KEY(name) REFERENCES metric (name) ON DELETE CASCADE
);
CREATE TABLE micrograph (
	number INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	gridsquare_uuid TEXT NOT NULL, 
	foilhole_uuid TEXT NOT NULL, 
	gridsquare_id TEXT, 
	foilhole_id TEXT, 
	location_id TEXT, 
	micrograph_id TEXT, 
	status TEXT DEFAULT 'none' NOT NULL, 
	high_res_path TEXT, 
	manifest_file TEXT, 
	manifest_stamp TEXT, 
	acquisition_datetime DATETIME, 
	defocus FLOAT, 
	applied_defocus FLOAT, 
	magnification FLOAT, 
	pixel_size FLOAT, 
	detector_name TEXT, 
	energy_filter BOOLEAN, 
	phase_plate BOOLEAN, 
	image_size_x INTEGER, 
	image_size_y INTEGER, 
	binning_x INTEGER, 
	binning_y INTEGER, 
	fractions INTEGER, 
	exposure_time FLOAT, 
	dose FLOAT, 
	high_tension FLOAT, 
	stage_x FLOAT, 
	stage_y FLOAT, 
	stage_z FLOAT, 
	beam_shift_x FLOAT, 
	beam_shift_y FLOAT, 
	total_motion FLOAT, 
	average_motion FLOAT, 
	ctf_max_resolution_estimate FLOAT, 
	number_of_particles_picked INTEGER, 
	number_of_particles_selected INTEGER, 
	number_of_particles_rejected INTEGER, 
	pick_distribution TEXT, 
	selection_distribution TEXT, 
	updated_at DATETIME, 
	CONSTRAINT pk_micrograph PRIMARY KEY (number), 
	CONSTRAINT fk_micrograph_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT uq_micrograph_uuid UNIQUE (uuid)
);
CREATE TABLE model_parameter (
	id INTEGER NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	timestamp DATETIME NOT NULL, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	"key" TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	"group" TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_model_parameter PRIMARY KEY (id), 
	CONSTRAINT fk_model_parameter_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_model_parameter_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_model_parameter_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE model_weight (
	id INTEGER NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	micrograph_uuid TEXT, 
	micrograph_quality BOOLEAN, 
	timestamp DATETIME NOT NULL, 
	origin TEXT, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	weight FLOAT NOT NULL, 
	CONSTRAINT pk_model_weight PRIMARY KEY (id), 
	CONSTRAINT fk_model_weight_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_model_weight_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_model_weight_micrograph_uuid FOREIGN KEY(micrograph_uuid) REFERENCES micrograph (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_model_weight_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE outbox (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_type TEXT NOT NULL, 
	body TEXT NOT NULL, 
	created_at DATETIME NOT NULL
);
CREATE TABLE overall_prediction (
	id INTEGER NOT NULL, 
	grid_uuid TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	gridsquare_uuid TEXT, 
	foilhole_uuid TEXT, 
	suggested_acquisition_index INTEGER, 
	CONSTRAINT pk_overall_prediction PRIMARY KEY (id), 
	CONSTRAINT fk_overall_prediction_foilhole_uuid FOREIGN KEY(foilhole_uuid) REFERENCES foilhole (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_overall_prediction_grid_uuid FOREIGN KEY(grid_uuid) REFERENCES grid (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_overall_prediction_gridsquare_uuid FOREIGN KEY(gridsquare_uuid) REFERENCES gridsquare (uuid) ON DELETE CASCADE
);
CREATE TABLE prediction (
	id INTEGER NOT NULL, 
	timestamp DATETIME NOT NULL, 
	value FLOAT NOT NULL, 
	prediction_model_name TEXT NOT NULL, 
	metric_name TEXT, 
	gridsquare_uuid TEXT, 
	foilhole_uuid TEXT, 
	CONSTRAINT pk_prediction PRIMARY KEY (id), 
	CONSTRAINT fk_prediction_foilhole_uuid FOREIGN KEY(foilhole_uuid) REFERENCES foilhole (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_prediction_gridsquare_uuid FOREIGN KEY(gridsquare_uuid) REFERENCES gridsquare (uuid) ON DELETE CASCADE, 
	CONSTRAINT fk_prediction_metric_name FOREIGN KEY(metric_name) REFERENCES metric (name) ON DELETE CASCADE, 
	CONSTRAINT fk_prediction_prediction_model_name FOREIGN KEY(prediction_model_name) REFERENCES prediction_model (name) ON DELETE CASCADE
);
CREATE TABLE prediction_model (
	name TEXT NOT NULL, 
	description TEXT DEFAULT '' NOT NULL, 
	level TEXT DEFAULT 'gridsquare' NOT NULL, 
	can_train BOOLEAN DEFAULT '0' NOT NULL, 
	can_infer BOOLEAN DEFAULT '1' NOT NULL, 
	can_update BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_prediction_model PRIMARY KEY (name)
);
CREATE TABLE run_rows (
	grid_uuid TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	run_uid TEXT NOT NULL, 
	amends TEXT, 
	first_row BIGINT NOT NULL, 
	last_row BIGINT NOT NULL, 
	started_at DATETIME, 
	ended_at DATETIME, 
	CONSTRAINT pk_run_rows PRIMARY KEY (grid_uuid, kind, run_uid)
);
CREATE TABLE setting (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_setting PRIMARY KEY (name)
);
CREATE TABLE source_file (
	root TEXT NOT NULL, 
	path TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	grid_uuid TEXT, 
	entity_uuid TEXT, 
	size BIGINT NOT NULL, 
	mtime_ns BIGINT NOT NULL, 
	digest TEXT, 
	problem TEXT, 
	recorded_at DATETIME, 
	CONSTRAINT pk_source_file PRIMARY KEY (root, path)
);
CREATE INDEX ix_applied_message_applied_at ON applied_message (applied_at);
CREATE INDEX ix_source_file_grid_uuid ON source_file (grid_uuid);
CREATE INDEX ix_agent_session_agent_id ON agent_session (agent_id);
CREATE INDEX ix_grid_acquisition_uuid_number ON grid (acquisition_uuid, number);
CREATE INDEX ix_grid_atlas_uuid ON grid (atlas_uuid);
CREATE INDEX ix_agent_connection_session_id ON agent_connection (session_id);
CREATE INDEX ix_agent_instruction_session_id_status ON agent_instruction (session_id, status);
CREATE INDEX ix_agent_log_session_id_id ON agent_log (session_id, id);
CREATE INDEX ix_atlas_grid_uuid_number ON atlas (grid_uuid, number);
CREATE INDEX ix_current_model_weight_grid_uuid_prediction_model_name ON current_model_weight (grid_uuid, prediction_model_name);
CREATE INDEX ix_foilhole_grid_uuid_foilhole_id ON foilhole (grid_uuid, foilhole_id);
CREATE INDEX ix_foilhole_gridsquare_uuid_number ON foilhole (gridsquare_uuid, number);
CREATE INDEX ix_foilhole_group_grid_uuid ON foilhole_group (grid_uuid);
CREATE INDEX ix_gridsquare_grid_uuid_gridsquare_id ON gridsquare (grid_uuid, gridsquare_id);
CREATE INDEX ix_micrograph_foilhole_uuid_number ON micrograph (foilhole_uuid, number);
CREATE INDEX ix_micrograph_grid_uuid_acquisition_datetime ON micrograph (grid_uuid, acquisition_datetime);
CREATE INDEX ix_micrograph_grid_uuid_defocus ON micrograph (grid_uuid, defocus);
CREATE INDEX ix_micrograph_grid_uuid_number ON micrograph (grid_uuid, number);
CREATE INDEX ix_micrograph_gridsquare_uuid_number ON micrograph (gridsquare_uuid, number);
CREATE INDEX ix_micrograph_updated_at ON micrograph (updated_at);
CREATE INDEX ix_model_parameter_grid_uuid_prediction_model_name_group_key ON model_parameter (grid_uuid, prediction_model_name, "group", "key");
CREATE INDEX ix_agent_acknowledgement_instruction_id ON agent_acknowledgement (instruction_id);
CREATE INDEX ix_atlas_tile_atlas_uuid_number ON atlas_tile (atlas_uuid, number);
CREATE INDEX ix_current_prediction_foilhole_uuid ON current_prediction (foilhole_uuid);
CREATE INDEX ix_current_prediction_grid_uuid ON current_prediction (grid_uuid);
CREATE INDEX ix_current_prediction_gridsquare_uuid ON current_prediction (gridsquare_uuid);
CREATE INDEX ix_foilhole_group_member_foilhole_uuid ON foilhole_group_member (foilhole_uuid);
CREATE INDEX ix_group_prediction_group_uuid_id ON group_prediction (group_uuid, id);
CREATE INDEX ix_model_weight_grid_uuid_prediction_model_name_id ON model_weight (grid_uuid, prediction_model_name, id);
CREATE INDEX ix_model_weight_micrograph_uuid ON model_weight (micrograph_uuid);
CREATE INDEX ix_overall_prediction_foilhole_uuid ON overall_prediction (foilhole_uuid);
CREATE INDEX ix_overall_prediction_grid_uuid ON overall_prediction (grid_uuid);
CREATE INDEX ix_overall_prediction_gridsquare_uuid ON overall_prediction (gridsquare_uuid);
CREATE INDEX ix_prediction_foilhole_uuid_id ON prediction (foilhole_uuid, id);
CREATE INDEX ix_prediction_gridsquare_uuid_id ON prediction (gridsquare_uuid, id);
CREATE INDEX ix_atlas_tile_position_gridsquare_uuid ON atlas_tile_position (gridsquare_uuid);
CREATE UNIQUE INDEX uq_atlas_tile_position ON atlas_tile_position (atlastile_uuid, gridsquare_uuid);
DELETE FROM "sqlite_sequence";
COMMIT;
